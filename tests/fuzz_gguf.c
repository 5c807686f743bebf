/* fuzz_gguf: any bytes as a GGUF. What the reader accepts must lie wholly inside the bytes, and be found by name; the
 * model's reader must take or refuse any metadata. */
#include "formats/gguf_model.h"
#include "tests/test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void read_model(const whit_gguf *g) {
	whit_err e = {0};
	const char *name;
	json_t *config = NULL;
	if (whit_gguf_string(g, "general.architecture", 1, &name, &e)) return;
	const whit_gguf_arch *a = whit_gguf_arch_find(name, &e);
	if (!a) return;
	int rc = whit_gguf_config(g, a, &config, &e);
	if (rc ? config != NULL || !e.text[0] : !json_is_object(config)) abort();
	json_decref(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
	whit_gguf g;
	whit_err e = {0};
	uint8_t sum = 0;
	if (whit_gguf_parse(&g, data, n, "fuzz", &e)) {
		if (!e.text[0] || g.t || g.kv || g.map.path) abort();
		return 0;
	}
	for (int64_t i = 0; i < g.n_kv; i++) {
		const whit_gguf_kv *kv = &g.kv[i];
		if (whit_gguf_find(&g, kv->key) != kv) abort();
		for (size_t k = 0; k < kv->raw_bytes; k++) sum ^= kv->raw[k];
		for (int64_t k = 0; kv->text && k < kv->n; k++)
			for (size_t b = 0; b < kv->text[k].n; b++) sum ^= (uint8_t)kv->text[k].p[b];
	}
	for (int64_t i = 0; i < g.n; i++) {
		const whit_gguf_tensor *t = &g.t[i];
		if (whit_gguf_tensor_find(&g, t->name) != t) abort();
		if (t->data < data || t->data + t->bytes > data + n || t->offset % (uint64_t)g.alignment) abort();
		for (size_t k = 0; k < t->bytes; k++) sum ^= t->data[k];
	}
	read_model(&g);
	whit_gguf_close(&g);
	return sum == 0 && n == SIZE_MAX; /* keeps the reads alive; always 0 */
}
