/* fuzz_json: any bytes as a config (every getter) and as the manifest of a small packed weight file. What the
 * manifest reader accepts must decode within the bytes. */
#include "formats/checkpoint_own.h"
#include "tests/test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* The weights that the manifests in tests/corpus/json speak of. */
static const char header[] = "{\"a.tq_codes\":{\"dtype\":\"U8\",\"shape\":[2,64],\"data_offsets\":[0,128]},"
                             "\"a.tq_scales\":{\"dtype\":\"F16\",\"shape\":[2,1],\"data_offsets\":[128,132]},"
                             "\"b.q_codes\":{\"dtype\":\"U8\",\"shape\":[2,64],\"data_offsets\":[132,260]},"
                             "\"b.q_scales\":{\"dtype\":\"F16\",\"shape\":[2,1],\"data_offsets\":[260,264]},"
                             "\"norm.weight\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[264,280]}}";
enum { DATA = 280 };

static void getters(const json_t *j) {
	static const char *const key[] = {"bits",       "hidden_size", "rope_theta", "tie_word_embeddings",
	                                  "model_type", "tensors",     "source"};
	whit_err e;
	for (int64_t k = 0; k < WHIT_COUNT(key); k++) {
		int64_t i = 7;
		double d = 7;
		int b = 7;
		const char *t = "";
		const json_t *m = NULL;
		if (!whit_json_int(j, "f", key[k], 1, -5, 1 << 20, &i, &e) && (i < -5 || i > 1 << 20)) abort();
		if (!whit_json_real(j, "f", key[k], 1, -1e30, 1e30, &d, &e) && !(d >= -1e30 && d <= 1e30)) abort();
		if (!whit_json_bool(j, "f", key[k], 1, &b, &e) && b != 0 && b != 1) abort();
		if (!whit_json_text(j, "f", key[k], 1, &t, &e) && !t) abort();
		if (!whit_json_member(j, "f", key[k], 1, JSON_ARRAY, &m, &e) && !json_is_array(m)) abort();
	}
}

static void manifest(json_t *j) {
	static uint8_t bytes[8 + sizeof header - 1 + DATA];
	uint64_t length = sizeof header - 1;
	whit_err e = {0};
	memcpy(bytes, &length, 8);
	memcpy(bytes + 8, header, sizeof header - 1);
	whit_ckpt c = {.kind = WHIT_CKPT_WHIT, .manifest = json_incref(j), .path = whit_strdup("/nonexistent")};
	c.own = whit_alloc(sizeof *c.own);
	c.own->st = whit_alloc(sizeof *c.own->st);
	c.own->manifest_path = whit_ckpt_text(&c, "manifest");
	if (whit_st_parse(c.own->st, bytes, sizeof bytes, "weights", &e)) abort();
	c.own->n_st = 1;
	if (whit_ckpt_index(&c, &e)) abort();
	if (!whit_manifest_read(&c, &e)) {
		for (int64_t i = 0; i < c.n; i++) {
			const whit_mat *m = &c.w[i].mat;
			if (!m->spec.fmt) continue;
			float *x = whit_alloc(sizeof *x * (size_t)(m->rows * m->cols));
			whit_mat_decode(m, 0, m->rows, x);
			whit_free(x);
		}
	} else if (!e.text[0]) {
		abort();
	}
	whit_ckpt_close(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
	json_t *j;
	whit_err e = {0};
	if (whit_json_parse(&j, (const char *)data, n, "fuzz", &e)) {
		if (!e.text[0] || j) abort();
		return 0;
	}
	getters(j);
	if (json_is_object(j)) manifest(j);
	json_decref(j);
	return 0;
}
