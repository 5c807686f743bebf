/* imatrix: what llama-imatrix wrote (golden/imatrix, by make_imatrix.sh), both forms; round trips; refusals. */
#include "formats/imatrix.h"
#include "tests/test.h"

static whit_err e;

static char *golden(const char *name) { return whit_format_text("%s/tests/golden/imatrix/%s", WHIT_SOURCE, name); }

static int open_golden(whit_imatrix *m, const char *name) {
	char *path = golden(name);
	int ok = CHECK_RC(whit_imatrix_open(m, path, &e), e);
	whit_free(path);
	return ok;
}

static void run_gguf(void) {
	whit_imatrix m;
	if (!open_golden(&m, "wiki12M.gguf")) return;
	CHECK_INT(m.n, 42); /* 7 linears of 6 layers */
	CHECK_INT(m.chunks, 4);
	CHECK_INT(m.chunk_size, 128);
	CHECK_INT(m.n_dataset, 1);
	CHECK_TEXT(m.dataset[0], "demo.txt");
	for (int64_t i = 0; i < m.n; i++) {
		CHECK_INT(m.w[i].count, 512);
		for (int64_t k = 0; k < m.w[i].cols; k++)
			if (!(fabs(m.w[i].mean[k] - m.w[i].sum2[k] / 512.0) <= 0x1p-24 * m.w[i].mean[k]))
				CHECK_MSG(0, "%s: mean %lld", m.w[i].name, (long long)k);
	}
	const whit_gguf_arch *a = whit_gguf_arch_find("qwen3", &e);
	if (!CHECK(a != NULL)) return;
	const float *v = whit_imatrix_find(&m, a, "model.layers.3.mlp.down_proj.weight", 1152, &e);
	if (CHECK(v != NULL)) CHECK(isfinite(v[1151]) && v[1151] > 0);
	CHECK(!whit_imatrix_find(&m, a, "model.embed_tokens.weight", 384, &e));
	CHECK_INT(e.code, 0);
	CHECK(!whit_imatrix_find(&m, a, "model.layers.0.self_attn.q_proj.weight", 512, &e));
	CHECK_INT(e.code, WHIT_EINPUT);
	CHECK(strstr(e.text, "has 384 values, need the 512 columns") != NULL);
	whit_imatrix_close(&m);
	whit_imatrix_close(&m); /* harmless */
}

/* The older file holds the same means, once multiplied by its chunks and rounded to float. */
static void run_legacy(void) {
	whit_imatrix g, d;
	if (!open_golden(&g, "stories.gguf") || !open_golden(&d, "stories.dat")) return;
	CHECK_INT(d.n, g.n);
	CHECK_INT(d.chunks, 3);
	CHECK_TEXT(d.dataset[0], "demo.txt");
	for (int64_t i = 0; i < WHIT_MIN(d.n, g.n); i++) {
		CHECK_TEXT(d.w[i].name, g.w[i].name);
		CHECK_INT(d.w[i].cols, g.w[i].cols);
		CHECK_INT(d.w[i].count, 3);
		for (int64_t k = 0; k < d.w[i].cols; k++)
			if (!(fabs(d.w[i].mean[k] - g.w[i].mean[k]) <= 3 * 0x1p-23 * g.w[i].mean[k])) /* 3 roundings */
				CHECK_MSG(0, "%s: value %lld is %g, need %g", d.w[i].name, (long long)k,
				          (double)d.w[i].mean[k], (double)g.w[i].mean[k]);
	}
	whit_imatrix_close(&g);
	whit_imatrix_close(&d);
}

static void run_round_trip(void) {
	static const char *const names[] = {"wiki12M.gguf", "stories.dat"};
	for (int i = 0; i < 2; i++) {
		whit_imatrix m, back;
		if (!open_golden(&m, names[i])) return;
		char *path = test_scratch("imatrix.gguf");
		if (!CHECK_RC(whit_imatrix_write(&m, path, &e), e)) return;
		if (!CHECK_RC(whit_imatrix_open(&back, path, &e), e)) return;
		CHECK_INT(back.n, m.n);
		CHECK_INT(back.chunks, m.chunks);
		CHECK_INT(back.chunk_size, m.chunk_size);
		CHECK_TEXT(back.dataset[0], m.dataset[0]);
		for (int64_t k = 0; k < m.n; k++) {
			CHECK_TEXT(back.w[k].name, m.w[k].name);
			CHECK(back.w[k].cols == m.w[k].cols && back.w[k].count == m.w[k].count);
			CHECK(!memcmp(back.w[k].sum2, m.w[k].sum2, (size_t)m.w[k].cols * sizeof(float)));
			CHECK(!memcmp(back.w[k].mean, m.w[k].mean, (size_t)m.w[k].cols * sizeof(float)));
		}
		if (i == 0) { /* llama-imatrix's own bytes: its keys, order and padding */
			size_t n, n_want;
			char *want_path = golden(names[0]), *got = test_read(path, &n),
			     *want = test_read(want_path, &n_want);
			CHECK(n == n_want && !memcmp(got, want, n));
			free(got);
			free(want);
			whit_free(want_path);
		}
		whit_imatrix_close(&m);
		whit_imatrix_close(&back);
		whit_free(path);
	}
}

/* Every prefix: an error, but for the older form where its optional trailer begins, and a GGUF that lacks only padding
 * (28 bytes) after the last value. */
static void run_truncation(void) {
	static const struct {
		const char *name;
		int whole;
	} files[] = {{"dat", 1}, {"dat_trailer", 2}, {"gguf", 29}};
	for (int i = 0; i < WHIT_COUNT(files); i++) {
		char *path = whit_format_text("%s/tests/corpus/imatrix/%s", WHIT_SOURCE, files[i].name);
		size_t n;
		char *bytes = test_read(path, &n);
		int good = 0;
		if (!CHECK(bytes != NULL)) return;
		for (size_t k = 0; k <= n; k++) {
			uint8_t *copy = malloc(k ? k : 1); /* exact, so that a sanitizer sees a read past it */
			whit_imatrix m;
			memcpy(copy, bytes, k);
			e.text[0] = 0;
			if (!whit_imatrix_parse(&m, copy, k, "cut", &e)) {
				good++;
				whit_imatrix_close(&m);
			} else if (!CHECK(e.text[0] && e.code == WHIT_EINPUT && !m.w))
				break;
			free(copy);
		}
		CHECK_INT(good, files[i].whole);
		free(bytes);
		whit_free(path);
	}
}

/* ---- lies ---- */

typedef struct lie {
	const char *type, *name, *other;
	int64_t ne, experts;
	float value, count;
	int chunk_size;
	const char *word;
} lie;

static int write_lie(const char *path, const lie *l) {
	whit_gguf_text text = {"t", 1};
	int64_t ne[2] = {l->ne, l->experts}, one[2] = {1, l->experts};
	float v[8], c[8];
	whit_gguf_out *o;
	for (int i = 0; i < 8; i++) v[i] = l->value, c[i] = l->count;
	if (whit_gguf_out_open(&o, path, &e) || whit_gguf_put_string(o, "general.type", l->type, &e) ||
	    whit_gguf_put_strings(o, "imatrix.datasets", &text, 1, &e) ||
	    whit_gguf_put_u32(o, "imatrix.chunk_count", 1, &e) ||
	    (l->chunk_size && whit_gguf_put_u32(o, "imatrix.chunk_size", 8, &e)) ||
	    whit_gguf_out_tensor(o, l->name, whit_ggml_type_of(0), 2, ne, &e) ||
	    (l->other && whit_gguf_out_tensor(o, l->other, whit_ggml_type_of(0), 2, one, &e)) ||
	    whit_gguf_out_write(o, v, (size_t)(l->ne * l->experts) * 4, &e) ||
	    (l->other && whit_gguf_out_write(o, c, (size_t)l->experts * 4, &e)))
		return -1;
	return whit_gguf_out_commit(o, &e);
}

static void run_lies(void) {
	static const lie lies[] = {
	        {"imatrix", "a.in_sum2", "a.counts", 4, 1, 1, 8, 1, NULL}, /* the truth */
	        {"imatrix", "a.in_sum2", "a.counts", 4, 1, 1, 0, 1, NULL},
	        {"model", "a.in_sum2", "a.counts", 4, 1, 1, 8, 1, "need \"imatrix\""},
	        {"imatrix", "a.in_sum2", "a.counts", 4, 1, 1, 8, 0, "imatrix.chunk_size"},
	        {"imatrix", "a.in_sum2", "b.counts", 4, 1, 1, 8, 1, "without a.counts"},
	        {"imatrix", "a.in_sum2", NULL, 4, 1, 1, 8, 1, "without a.counts"},
	        {"imatrix", "a.counts", NULL, 1, 1, 1, 8, 1, "need the 0 of .in_sum2"},
	        {"imatrix", "a.weight", NULL, 4, 1, 1, 8, 1, "ends in neither"},
	        {"imatrix", ".in_sum2", ".counts", 4, 1, 1, 8, 1, "ends in neither"},
	        {"imatrix", "a.in_sum2", "a.counts", 4, 2, 1, 8, 1, "2 experts"},
	        {"imatrix", "a.in_sum2", "a.counts", 4, 1, -1, 8, 1, "value 0 is -1"},
	        {"imatrix", "a.in_sum2", "a.counts", 4, 1, NAN, 8, 1, "value 0 is nan"},
	        {"imatrix", "a.in_sum2", "a.counts", 4, 1, INFINITY, 8, 1, "value 0 is inf"},
	        {"imatrix", "a.in_sum2", "a.counts", 4, 1, 1, -8, 1, "count is -8"},
	        {"imatrix", "a.in_sum2", "a.counts", 4, 1, 1, NAN, 1, "count is nan"},
	        {"imatrix", "a.in_sum2", "a.counts", 4, 1, 3e38f, 1e-3f, 1, "need a float"},
	};
	char *path = test_scratch("lie.gguf");
	for (int i = 0; i < WHIT_COUNT(lies); i++) {
		whit_imatrix m;
		if (!CHECK_RC(write_lie(path, &lies[i]), e)) continue;
		if (lies[i].word) {
			CHECK_FAILS(whit_imatrix_open(&m, path, &e), WHIT_EINPUT, e, lies[i].word);
			CHECK(strstr(e.text, "lie.gguf") != NULL);
			continue;
		}
		if (!CHECK_RC(whit_imatrix_open(&m, path, &e), e)) continue;
		CHECK_NEAR(m.w[0].mean[3], lies[i].count ? 1.0 / 8 : 1, 0);
		whit_imatrix_close(&m);
	}
	whit_free(path);
}

static void put(uint8_t **p, int32_t v) {
	memcpy(*p, &v, 4);
	*p += 4;
}

static void run_legacy_lies(void) {
	static const struct {
		int32_t entries, len, calls, n;
		float value;
		const char *word;
	} lies[] = {
	        {1, 1, 2, 2, 1, NULL},
	        {0, 1, 2, 2, 1, "number of entries is 0"},
	        {-1, 1, 2, 2, 1, "number of entries is -1"},
	        {1000000, 1, 2, 2, 1, "announces 1000000 entries"},
	        {2, 1, 2, 2, 1, "announces 2 entries"},
	        {1, 0, 2, 2, 1, "length of a name is 0"},
	        {1, 2147483647, 2, 2, 1, "a name takes"},
	        {1, 1, 0, 2, 1, "number of calls is 0"},
	        {1, 1, 2, 0, 1, "number of values is 0"},
	        {1, 1, 2, 2147483647, 1, "values takes"},
	        {1, 1, 2, 2, NAN, "is nan"},
	        {1, 1, 2, 2, -1, "is -1"},
	};
	for (int i = 0; i < WHIT_COUNT(lies); i++) {
		uint8_t b[64], *p = b;
		float v[2] = {1, lies[i].value};
		whit_imatrix m;
		put(&p, lies[i].entries);
		put(&p, lies[i].len);
		*p++ = 'a';
		put(&p, lies[i].calls);
		put(&p, lies[i].n);
		memcpy(p, v, 8);
		p += 8;
		int rc = whit_imatrix_parse(&m, b, (size_t)(p - b), "old.dat", &e);
		if (lies[i].word) {
			CHECK_INT(rc, WHIT_EINPUT);
			CHECK_MSG(strstr(e.text, lies[i].word) != NULL, "%s", e.text);
			continue;
		}
		if (!CHECK_RC(rc, e)) continue;
		CHECK_NEAR(m.w[0].mean[1], .5, 0);
		whit_imatrix_close(&m);
	}
}

TEST_MAIN(run_gguf, run_legacy, run_round_trip, run_truncation, run_lies, run_legacy_lies)
