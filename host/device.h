/* device: the device that a command computes on, as --device and --vram say. */
#ifndef WHIT_DEVICE_H
#define WHIT_DEVICE_H
#include "cuda/dev.h"

/* What the options ask for. spec: "cpu", "cuda", "cuda:N" or "auto" (a CUDA device where one can be used); vram: at
 * most so many bytes of its memory, 0 = what is free; precision: "exact" or "fast" (whit_dev_terms 3 or 1). WHIT_EUSAGE
 * for another word. spec is borrowed. */
int whit_device_ask(const char *spec, int64_t vram, const char *precision, whit_err *e);
/* Opens it: *d is NULL where the CPU computes. cuda: an error where none can be used (WHIT_ERESOURCE, with the reason);
 * auto: then the CPU, and a line that says why. Free with whit_device_close. */
int whit_device_open(whit_dev **d, whit_err *e);
/* The same, with products tuned as `file` says, or where it is NULL the file of host/tune.h: for commands that write
 * nothing a tier could change. */
int whit_device_open_tuned(whit_dev **d, const char *file, whit_err *e);
/* A line of a command's table: its --tune-file. */
#define WHIT_TUNE_OPTION(file)                                                                                         \
	{                                                                                                              \
		"--tune-file", 'r', "FILE",                                                                            \
		        "what `whit bench --tune` wrote; none: nothing (default: whit/tune.json in ~/.cache)",         \
		        &(file), 0                                                                                     \
	}
void whit_device_close(whit_dev *d); /* NULL is allowed */
/* What results depend on of where they are computed: the CPU's vector level (d NULL), or the device, the toolkit and
 * its products' precision. whit_free it. */
char *whit_device_text(whit_dev *d);
/* What --kv of a command says, the element of keys and values in a device's cache: *type is WHIT_F32 for "f32",
 * WHIT_F16 for "f16"; WHIT_EUSAGE for another word. */
int whit_device_kv(int *type, const char *command, const char *word, whit_err *e);
#endif
