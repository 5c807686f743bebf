#include "host/device.h"
#include <stdio.h>
#include <stdlib.h>
#include "formats/tensor.h"
#include "host/progress.h"
#include "host/tune.h"

static const char *asked = "auto";
static int64_t memory;
static int terms = 3;

/* Number of "cuda" or "cuda:N", or -1. */
static int index_of(const char *spec) {
	char *end;
	if (!strcmp(spec, "cuda")) return 0;
	if (strncmp(spec, "cuda:", 5) || spec[5] < '0' || spec[5] > '9') return -1;
	long n = strtol(spec + 5, &end, 10);
	return *end || n > 1023 ? -1 : (int)n;
}

int whit_device_ask(const char *spec, int64_t vram, const char *precision, whit_err *e) {
	if (strcmp(spec, "auto") && strcmp(spec, "cpu") && index_of(spec) < 0)
		return whit_fail(e, WHIT_EUSAGE, "--device: is %s, need cpu, cuda, cuda:N or auto", spec);
	if (vram < 0) return whit_fail(e, WHIT_EUSAGE, "--vram: is %lld, need bytes", (long long)vram);
	if (strcmp(precision, "exact") && strcmp(precision, "fast"))
		return whit_fail(e, WHIT_EUSAGE, "--precision: is %s, need exact or fast", precision);
	terms = strcmp(precision, "fast") ? 3 : 1;
	asked = spec;
	memory = vram;
	return 0;
}

/* tune: a file of tuned products, or NULL. */
static int open_by(whit_dev **d, const char *tune, whit_err *e) {
	int is_auto = !strcmp(asked, "auto"), rc;
	whit_dev_info info;
	*d = NULL;
	if (!strcmp(asked, "cpu")) return 0;
	if (!whit_dev_open)
		rc = whit_fail(e, WHIT_ERESOURCE, "device: this build has no CUDA");
	else
		rc = whit_dev_open(d, is_auto ? 0 : index_of(asked), e);
	if (rc && is_auto) {
		static int said; /* commands that open it again and again need not say so */
		if (!said++) whit_say("device: cpu (%s)", e->text);
		e->code = 0;
		return 0;
	}
	if (rc) return rc;
	whit_dev_limit(*d, (size_t)memory);
	whit_dev_terms(*d, terms);
	if (tune) whit_tune_read(*d, tune);
	whit_dev_describe(*d, &info);
	char tuned[32] = "";
	if (info.tuned) snprintf(tuned, sizeof tuned, ", %d tuned products", info.tuned);
	whit_say("device: cuda:%d, %s, %.1f of %.1f GB free%s%s", info.index, info.name, (double)info.free / 1e9,
	         (double)info.memory / 1e9, memory ? ", less by --vram" : "", tuned);
	return 0;
}

int whit_device_open(whit_dev **d, whit_err *e) { return open_by(d, NULL, e); }

int whit_device_open_tuned(whit_dev **d, const char *file, whit_err *e) {
	char *path = whit_tune_path(file, 0);
	int rc = open_by(d, path, e);
	whit_free(path);
	return rc;
}

char *whit_device_text(whit_dev *d) {
	whit_dev_info info;
	if (!d) return whit_format_text("cpu, %s", whit_cpu_level_name(whit_cpu_level()));
	whit_dev_describe(d, &info);
	return whit_format_text("%s, toolkit %d, %d terms", info.name, info.toolkit, whit_dev_terms(d, 0));
}

void whit_device_close(whit_dev *d) {
	if (d) whit_dev_close(d);
}

int whit_device_kv(int *type, const char *command, const char *word, whit_err *e) {
	*type = strcmp(word, "f16") ? WHIT_F32 : WHIT_F16;
	if (*type == WHIT_F32 && strcmp(word, "f32"))
		return whit_fail(e, WHIT_EUSAGE, "%s: --kv is %s, need f32 or f16", command, word);
	return 0;
}
