/* test_checkpoint: what whit writes comes back bit for bit; Hugging Face and TQ3 directories read right; every
 * bad directory is refused with a text that says why. */
#include <math.h>
#include <unistd.h>
#include "formats/checkpoint.h"
#include "formats/codebook.h"
#include "formats/json.h"
#include "formats/packed.h"
#include "formats/safetensors.h"
#include "tests/test.h"

/* ---- fixtures ---- */

enum { N_SAMPLE = 6 };
static const struct {
	const char *name;
	int dtype, ndim;
	int64_t shape[2];
} sample[N_SAMPLE] = {
        {"model.embed_tokens.weight", WHIT_BF16, 2, {16, 256}},
        {"model.layers.0.mlp.down_proj.weight", WHIT_F32, 2, {6, 384}},
        {"model.layers.0.mlp.up_proj.weight", WHIT_F16, 2, {9, 256}},
        {"model.norm.weight", WHIT_F32, 1, {256, 1}},
        {"odd.bias", WHIT_F16, 1, {5, 1}},
        {"positions", WHIT_I64, 1, {3, 1}},
};

static char *fresh_dir(const char *name) {
	char *dir = test_scratch(name);
	if (mkdir(dir, 0777)) abort();
	return dir;
}

static char *in(const char *dir, const char *file) {
	static char path[4][1024];
	static int turn;
	turn = (turn + 1) % 4;
	snprintf(path[turn], sizeof path[turn], "%s/%s", dir, file);
	return path[turn];
}

static void put_text(const char *dir, const char *file, const char *text) {
	test_write(in(dir, file), text, strlen(text));
}

/* Weight i of the sample: bytes that depend on i alone. whit_free it. */
static uint8_t *sample_bytes(int i, size_t *n) {
	int64_t count = 1;
	whit_rng r;
	for (int d = 0; d < sample[i].ndim; d++) count *= sample[i].shape[d];
	*n = (size_t)count * whit_dtype_size(sample[i].dtype);
	uint8_t *b = whit_alloc(*n);
	whit_rng_key(&r, 11, (uint64_t)i, 0);
	for (int64_t k = 0; k < count; k++) {
		float x = (float)(0.05 * whit_rng_normal(&r));
		uint16_t h = sample[i].dtype == WHIT_F16 ? whit_f32_to_f16(x) : whit_f32_to_bf16(x);
		if (sample[i].dtype == WHIT_F32)
			memcpy(b + 4 * k, &x, 4);
		else if (sample[i].dtype == WHIT_I64)
			memcpy(b + 8 * k, &k, 8);
		else
			memcpy(b + 2 * k, &h, 2);
	}
	return b;
}

/* The sample's weights in [from, to) as one file, in reverse order. */
static void put_weights(const char *dir, const char *file, int from, int to) {
	whit_st_out *o;
	whit_err e;
	size_t bound = 0;
	for (int i = from; i < to; i++) bound += whit_st_header_bound(sample[i].name);
	if (whit_st_out_open(&o, in(dir, file), bound, &e)) abort();
	for (int i = to - 1; i >= from; i--) {
		size_t n;
		uint8_t *b = sample_bytes(i, &n);
		if (whit_st_out_begin(o, sample[i].name, sample[i].dtype, sample[i].ndim, sample[i].shape, &e) ||
		    whit_st_out_write(o, b, n, &e))
			abort();
		whit_free(b);
	}
	if (whit_st_out_commit(o, &e)) abort();
}

static const char config[] = "{\"model_type\":\"llama\",\"hidden_size\":256,\"quantization_config\":null}";

static char *hf_dir(const char *name) {
	char *dir = fresh_dir(name);
	put_text(dir, "config.json", config);
	put_text(dir, "tokenizer.json", "{\"tok\":1}");
	put_weights(dir, "model.safetensors", 0, N_SAMPLE);
	return dir;
}

/* ---- Hugging Face ---- */

static void plain(void) {
	char *dir = hf_dir("ck_plain");
	whit_ckpt c;
	whit_err e;
	if (!CHECK_RC(whit_ckpt_open(&c, dir, &e), e)) return;
	CHECK_INT(c.kind, WHIT_CKPT_HF);
	CHECK_INT(c.n, N_SAMPLE);
	size_t all;
	whit_free(test_read(in(dir, "model.safetensors"), &all));
	CHECK_INT(c.file_bytes, all);
	for (int i = 0; i < N_SAMPLE; i++) {
		size_t n;
		uint8_t *b = sample_bytes(i, &n);
		const whit_weight *w = whit_ckpt_find(&c, sample[i].name);
		if (!CHECK(w != NULL)) continue;
		CHECK_INT(w->dtype, sample[i].dtype);
		CHECK_INT(w->bytes, n);
		CHECK_INT(w->mat.rows * (int64_t)w->mat.row_bytes[0], n);
		CHECK(!memcmp(w->mat.plane[0], b, n));
		CHECK_INT(w->mat.rows, sample[i].ndim > 1 ? sample[i].shape[0] : 1);
		CHECK_INT(w->mat.cols, sample[i].shape[sample[i].ndim - 1]);
		CHECK((w->mat.spec.fmt != NULL) == (sample[i].dtype != WHIT_I64));
		CHECK(w->passthrough && !w->alias);
		whit_weight_drop(w);
		CHECK(!memcmp(w->mat.plane[0], b, n));
		whit_free(b);
	}
	for (int64_t i = 1; i < c.n; i++) CHECK(strcmp(c.w[i - 1].name, c.w[i].name) < 0);
	CHECK(!whit_ckpt_find(&c, "model.norm"));
	CHECK_RC(whit_ckpt_check(&c, &e), e);
	put_weights(dir, "model.safetensors", 0, 2); /* another file under the same name */
	CHECK_FAILS(whit_ckpt_check(&c, &e), WHIT_EINPUT, e, "changed");
	whit_ckpt_close(&c);
	whit_free(dir);
}

static void fingerprint_of(const char *dir, int threads, char out[48]) {
	whit_ckpt c;
	whit_err e;
	out[0] = 0;
	whit_threads_set(threads);
	if (CHECK_RC(whit_ckpt_open(&c, dir, &e), e)) {
		CHECK_RC(whit_ckpt_fingerprint(&c, out, &e), e);
		whit_ckpt_close(&c);
	}
	whit_threads_set(0);
}

static void put_index(const char *dir, const char *up, const char *norm, const char *extra) {
	char *t = whit_format_text(
	        "{\"metadata\":{\"total_size\":1},\"weight_map\":{\"model.embed_tokens.weight\":\"a.safetensors\","
	        "\"model.layers.0.mlp.down_proj.weight\":\"a.safetensors\",\"model.layers.0.mlp.up_proj.weight\":\"%"
	        "s\","
	        "\"model.norm.weight\":\"%s\",\"odd.bias\":\"b.safetensors\"%s}}",
	        up, norm, extra);
	put_text(dir, "model.safetensors.index.json", t);
	whit_free(t);
}

static void sharded(void) {
	static const char rest[] = ",\"positions\":\"b.safetensors\"";
	char *one = hf_dir("ck_one"), *dir = fresh_dir("ck_shards"), a[48], b[48];
	whit_ckpt c;
	whit_err e;
	put_text(dir, "config.json", config);
	put_weights(dir, "a.safetensors", 0, 3);
	put_weights(dir, "b.safetensors", 3, N_SAMPLE);
	put_index(dir, "a.safetensors", "b.safetensors", rest);
	fingerprint_of(one, 1, a);
	fingerprint_of(dir, 3, b);
	CHECK_TEXT(a, b);
	CHECK(!strncmp(a, "xxh3-128:", 9) && strlen(a) == 41);
	put_index(dir, "c.safetensors", "b.safetensors", rest);
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "c.safetensors is missing");
	put_index(dir, "a.safetensors", "a.safetensors", rest);
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "model.norm.weight: is in");
	put_index(dir, "a.safetensors", "b.safetensors", "");
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "positions: is in");
	put_index(dir, "a.safetensors", "b.safetensors",
	          ",\"positions\":\"b.safetensors\",\"ghost\":\"b.safetensors\"");
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "ghost: is absent");
	put_index(dir, "/etc/a.safetensors", "b.safetensors", rest);
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "is absolute");
	put_index(dir, "sub/../../a.safetensors", "b.safetensors", rest);
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "is outside");
	put_index(dir, "..", "b.safetensors", rest);
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "is outside");
	put_index(dir, "", "b.safetensors", rest);
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "is empty");
	put_index(dir, "a.safetensors", "b.safetensors", ",\"positions\":3");
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "is integer, need string");
	put_index(dir, "a.safetensors", "b.safetensors",
	          ",\"positions\":\"b.safetensors\",\"odd.bias\":\"a.safetensors\"");
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "duplicate");
	put_text(dir, "model.safetensors.index.json", "{\"weight_map\":[]}");
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "need object");
	put_weights(dir, "b.safetensors", 2, N_SAMPLE); /* up_proj in both */
	put_index(dir, "a.safetensors", "b.safetensors", rest);
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "is also in");
	whit_free(one);
	whit_free(dir);
}

static void bad_directories(void) {
	char *dir = hf_dir("ck_bad");
	whit_ckpt c;
	whit_err e;
	CHECK_FAILS(whit_ckpt_open(&c, in(dir, "nowhere"), &e), WHIT_EINPUT, e, "does not exist");
	CHECK_FAILS(whit_ckpt_open(&c, in(dir, "config.json"), &e), WHIT_EINPUT, e, "not a directory");
	put_text(dir, "config.json", "[]");
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "need object");
	put_text(dir, "config.json", "{\"rope_theta\":Infinity}");
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "not JSON");
	put_text(dir, "config.json", "{\"quantization_config\":{\"quant_method\":\"gptq\"}}");
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "already quantized with gptq");
	put_text(dir, "config.json", "{\"auto_map\":{\"AutoModel\":\"x.Y\"}}");
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "remote code");
	unlink(in(dir, "config.json"));
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "config.json");
	put_text(dir, "config.json", config);
	test_write(in(dir, "model.safetensors"), "version https://git-lfs.example/spec/v1\n", 40);
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "Git-LFS");
	unlink(in(dir, "model.safetensors"));
	CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, "need one");
	whit_free(dir);
}

/* ---- packed ---- */

typedef struct made { /* what was packed of one weight */
	whit_mat m;
	whit_rotation *rot;
	float codebook[256];
	int64_t zero_groups;
} made;

/* Nearest codes of a source weight in this format; kind: of the rotation. */
static void quantize(made *q, const whit_weight *w, const char *format, int kind, int scale_f32) {
	whit_err e;
	whit_rotation_spec rs;
	whit_mat *m = &q->m;
	memset(q, 0, sizeof *q);
	if (!CHECK_RC(whit_spec_parse(format, &m->spec, &e), e)) exit(1);
	whit_spec_resolve(&m->spec, w->mat.cols);
	if (!CHECK_RC(whit_rotation_plan(&rs, kind, 42, w->mat.cols, m->spec.group, &e), e)) exit(1);
	if (kind != WHIT_ROT_NONE && !CHECK_RC(whit_rotation_new(&q->rot, &rs, NULL, &e), e)) exit(1);
	m->rows = w->mat.rows;
	m->cols = w->mat.cols;
	m->width = q->rot ? whit_rotation_width(q->rot) : m->cols;
	m->rot = q->rot;
	m->scale_f32 = scale_f32;
	if (m->spec.fmt->needs_codebook) {
		CHECK_RC(whit_codebook(q->codebook, m->spec.bits, WHIT_DENSITY_GAUSSIAN,
		                       m->spec.group ? m->spec.group : m->width, &e),
		         e);
		m->codebook = q->codebook;
	}
	if (!CHECK_RC(whit_mat_alloc(m, &e), e)) exit(1);
	float *x = whit_alloc((size_t)m->cols * 4), *y = whit_alloc((size_t)m->width * 4);
	for (int64_t r = 0; r < m->rows; r++) {
		whit_mat_decode(&w->mat, r, r + 1, x);
		if (r == 2) memset(x, 0, (size_t)m->cols * 4); /* a zero row */
		if (q->rot)
			whit_rotate_cpu(q->rot, y, x, 1);
		else
			memcpy(y, x, (size_t)m->cols * 4);
		m->spec.fmt->encode(m, r, y, NULL, WHIT_SCALE_LS, &q->zero_groups);
	}
	whit_free(x);
	whit_free(y);
}

static void unmake(made *q) {
	whit_mat_free(&q->m);
	whit_rotation_free(q->rot);
}

static int is_matrix(const whit_weight *w) { return w->ndim == 2; }

/* Packs the source directory into `to`; q gets what was written, by source index. */
static int pack(const char *from, const char *to, const char *format, int kind, int scale_f32, int sidecar, made *q,
                whit_err *e) {
	whit_ckpt src;
	whit_outdir dir;
	whit_packed_out *o;
	whit_packed_info info = {.method = "nearest",
	                         .scale = "least_squares",
	                         .density = "gaussian",
	                         .recipe = "* x\n",
	                         .source_id = "src",
	                         .fingerprint = "xxh3-128:0",
	                         .sidecar = sidecar};
	if (!CHECK_RC(whit_ckpt_open(&src, from, e), *e)) exit(1);
	if (!CHECK_RC(whit_outdir_open(&dir, to, 0, e), *e)) exit(1);
	int rc = whit_packed_open(&o, &dir, &src, !strncmp(format, "tq", 2), &info, e);
	for (int64_t i = 0; i < src.n && !rc; i++) {
		if (src.w[i].alias) continue;
		if (is_matrix(&src.w[i]) && src.w[i].passthrough) {
			quantize(&q[i], &src.w[i], format, kind, scale_f32);
			rc = whit_packed_add(o, &src.w[i], &q[i].m, q[i].zero_groups, 0.25 + (double)i, e);
		} else {
			rc = whit_packed_pass(o, &src.w[i], NULL, e);
		}
	}
	if (!rc)
		rc = whit_packed_commit(o, e);
	else
		whit_packed_abort(o);
	if (!rc)
		rc = whit_outdir_commit(&dir, e);
	else
		whit_outdir_abort(&dir);
	whit_ckpt_close(&src);
	return rc;
}

static void compare_weight(const whit_weight *w, const made *q, int64_t i) {
	whit_plane_desc d[WHIT_PLANES];
	whit_err e;
	const whit_mat *a = &w->mat, *b = &q->m;
	CHECK(a->spec.fmt == b->spec.fmt && a->spec.bits == b->spec.bits && a->spec.group == b->spec.group);
	CHECK(a->rows == b->rows && a->cols == b->cols && a->width == b->width && a->scale_f32 == b->scale_f32);
	CHECK_INT(w->zero_groups, q->zero_groups);
	CHECK_NEAR(w->rel_mse, 0.25 + (double)i, 0);
	int n = b->spec.fmt->planes(&b->spec, b->width, b->scale_f32, d, &e);
	int64_t bytes = 0;
	for (int p = 0; p < n; p++) {
		CHECK_INT(a->row_bytes[p], b->row_bytes[p]);
		CHECK(!memcmp(a->plane[p], b->plane[p], b->row_bytes[p] * (size_t)b->rows));
		bytes += (int64_t)b->row_bytes[p] * b->rows;
	}
	CHECK_INT(w->bytes, bytes);
	CHECK((a->rot != NULL) == (b->rot != NULL));
	if (a->rot && b->rot) {
		const whit_rotation_spec *r = whit_rotation_get(a->rot), *s = whit_rotation_get(b->rot);
		CHECK(r->kind == s->kind && r->seed == s->seed && r->dim == s->dim && r->block == s->block &&
		      r->base == s->base);
	}
	if (b->codebook) CHECK(!memcmp(a->codebook, b->codebook, sizeof(float) << b->spec.bits));
	float *x = whit_alloc((size_t)(b->rows * b->cols) * 4), *y = whit_alloc((size_t)(b->rows * b->cols) * 4);
	whit_mat_decode(a, 0, b->rows, x);
	whit_mat_decode(b, 0, b->rows, y);
	CHECK(!memcmp(x, y, (size_t)(b->rows * b->cols) * 4));
	whit_free(x);
	whit_free(y);
}

static void compare_files(const char *a, const char *b, const char *name) {
	size_t n, m;
	char *x = test_read(in(a, name), &n), *y = test_read(in(b, name), &m);
	CHECK_MSG(x && y && n == m && !memcmp(x, y, n), "%s is the same twice", name);
	whit_free(x);
	whit_free(y);
}

static int64_t size_of(const char *dir, const char *file) {
	struct stat s;
	return stat(in(dir, file), &s) ? 0 : s.st_size;
}

static void round_trip(void) {
	static const struct {
		const char *format;
		int kind, scale_f32, sidecar;
	} how[] = {
	        {"tq1g128", WHIT_ROT_HADAMARD, 0, 0}, {"tq2g64", WHIT_ROT_HADAMARD, 0, 0},
	        {"tq3g128", WHIT_ROT_HADAMARD, 1, 0}, {"tq4", WHIT_ROT_HADAMARD, 0, 1},
	        {"tq8row", WHIT_ROT_HADAMARD, 0, 0},  {"tq4row", WHIT_ROT_HAAR_QR, 0, 0},
	        {"tq4g128", WHIT_ROT_HAAR_QR, 0, 1},  {"tq5g128", WHIT_ROT_NONE, 0, 0},
	        {"int4g128", WHIT_ROT_NONE, 0, 0},    {"int8", WHIT_ROT_HADAMARD, 1, 0},
	        {"f16", WHIT_ROT_NONE, 0, 0},         {"bf16", WHIT_ROT_HADAMARD, 0, 0},
	};
	char *src = hf_dir("ck_src");
	for (int64_t k = 0; k < WHIT_COUNT(how); k++) {
		whit_err e;
		made q[N_SAMPLE] = {0}, again[N_SAMPLE] = {0};
		whit_ckpt c;
		char *to = test_scratch("ck_packed"), *to2 = test_scratch("ck_packed2");
		int tq = !strncmp(how[k].format, "tq", 2);
		CHECK_RC(pack(src, to, how[k].format, how[k].kind, how[k].scale_f32, how[k].sidecar, q, &e), e);
		CHECK_RC(pack(src, to2, how[k].format, how[k].kind, how[k].scale_f32, how[k].sidecar, again, &e), e);
		compare_files(to, to2, "quant_manifest.json");
		compare_files(to, to2, tq ? "turboquant_weights.safetensors" : "packed_weights.safetensors");
		compare_files(to, src, "config.json");
		compare_files(to, src, "tokenizer.json");
		CHECK_INT(whit_file_exists(in(to, "turboquant_sidecar.safetensors")), how[k].sidecar);
		if (CHECK_RC(whit_ckpt_open(&c, to, &e), e)) {
			CHECK_INT(c.kind, WHIT_CKPT_WHIT);
			CHECK_INT(c.n, N_SAMPLE);
			CHECK_INT(c.file_bytes, size_of(to, "quant_manifest.json") +
			                                size_of(to, "turboquant_sidecar.safetensors") +
			                                size_of(to, tq ? "turboquant_weights.safetensors"
			                                               : "packed_weights.safetensors"));
			for (int64_t i = 0; i < N_SAMPLE; i++) {
				size_t n;
				uint8_t *b = sample_bytes((int)i, &n);
				const whit_weight *w =
				        whit_ckpt_find(&c, sample[i].name); /* the sample is sorted by name */
				CHECK_INT(w->dtype, sample[i].dtype);
				CHECK_INT(w->passthrough, sample[i].ndim != 2);
				if (w->passthrough)
					CHECK(w->bytes == (int64_t)n && !memcmp(w->mat.plane[0], b, n));
				else
					compare_weight(w, &q[i], i);
				whit_free(b);
			}
			whit_ckpt_close(&c);
		}
		/* Passing packed weights on writes the same planes again. */
		char *third = test_scratch("ck_third");
		made none[N_SAMPLE] = {0};
		CHECK_RC(pack(to, third, how[k].format, how[k].kind, 0, 0, none, &e), e);
		compare_files(to, third, tq ? "turboquant_weights.safetensors" : "packed_weights.safetensors");
		for (int i = 0; i < N_SAMPLE; i++) {
			unmake(&q[i]);
			unmake(&again[i]);
			CHECK(!none[i].m.rows);
		}
		whit_free(third);
		whit_free(to);
		whit_free(to2);
	}
	whit_free(src);
}

/* ---- manifests that lie ---- */

static json_t *entry(json_t *j, int i) { return json_array_get(json_object_get(j, "tensors"), (size_t)i); }
static void set(json_t *j, const char *key, json_t *v) { json_object_set_new(j, key, v); }
static json_t *rot0(json_t *j) { return json_object_get(json_object_get(j, "rotations"), "r0"); }
static json_t *values0(json_t *j) {
	return json_object_get(json_object_get(json_object_get(j, "codebooks"), "c0"), "values");
}

static void m_format(json_t *j) { set(j, "format", json_string("other")); }
static void m_version(json_t *j) { set(j, "format_version", json_integer(2)); }
static void m_noversion(json_t *j) { json_object_del(j, "format_version"); }
static void m_prod(json_t *j) { set(j, "method", json_string("turboquant_prod")); }
static void m_packing(json_t *j) { set(j, "packing", json_string("msb")); }
static void m_kind(json_t *j) { set(rot0(j), "kind", json_string("givens")); }
static void m_tq3(json_t *j) { set(rot0(j), "kind", json_string("tq3")); }
static void m_dim(json_t *j) { set(rot0(j), "dim", json_integer(512)); }
static void m_block(json_t *j) { set(rot0(j), "block", json_integer(96)); }
static void m_hugeblock(json_t *j) { set(rot0(j), "block", json_integer(1 << 30)); }
static void m_base(json_t *j) { set(rot0(j), "base", json_integer(13)); }
static void m_norot(json_t *j) { set(j, "rotations", json_object()); }
static void m_rotless(json_t *j) { json_object_del(entry(j, 0), "rotation"); }
static void m_nocode(json_t *j) { set(j, "codebooks", json_object()); }
static void m_short(json_t *j) { json_array_remove(values0(j), 3); }
static void m_order(json_t *j) { json_array_set_new(values0(j), 3, json_real(-9)); }
static void m_text(json_t *j) { json_array_set_new(values0(j), 3, json_string("x")); }
static void m_big(json_t *j) { json_array_set_new(values0(j), 15, json_real(1e300)); }
static void m_bits(json_t *j) { set(entry(j, 0), "bits", json_integer(3)); }
static void m_bits9(json_t *j) { set(entry(j, 0), "bits", json_integer(9)); }
static void m_group(json_t *j) { set(entry(j, 0), "group", json_integer(64)); }
static void m_group100(json_t *j) { set(entry(j, 0), "group", json_integer(100)); }
static void m_padded(json_t *j) { set(entry(j, 0), "padded", json_integer(512)); }
static void m_padless(json_t *j) { set(entry(j, 0), "padded", json_integer(128)); }
static void m_padhuge(json_t *j) { set(entry(j, 0), "padded", json_integer(INT64_MAX)); }
static void m_norm(json_t *j) { set(entry(j, 0), "norm_dtype", json_string("BF16")); }
static void m_norm32(json_t *j) { set(entry(j, 0), "norm_dtype", json_string("F32")); }
static void m_prefix(json_t *j) { set(entry(j, 0), "prefix", json_string("nobody")); }
static void m_shape(json_t *j) { set(entry(j, 0), "shape", json_pack("[i,i]", 17, 256)); }
static void m_shape0(json_t *j) { set(entry(j, 0), "shape", json_pack("[i,i]", 0, 256)); }
static void m_shapebig(json_t *j) {
	set(entry(j, 0), "shape", json_pack("[I,I]", (json_int_t)1 << 40, (json_int_t)1 << 40));
}
static void m_dtype(json_t *j) { set(entry(j, 0), "dtype", json_string("BF17")); }
static void m_twice(json_t *j) { json_array_append(json_object_get(j, "tensors"), entry(j, 0)); }
static void m_unlisted(json_t *j) { json_array_remove(json_object_get(j, "tensors"), 0); }
static void m_passgone(json_t *j) { json_array_remove(json_object_get(j, "passthrough"), 0); }
static void m_passshape(json_t *j) {
	set(json_array_get(json_object_get(j, "passthrough"), 0), "shape", json_pack("[i]", 255));
}
static void m_passghost(json_t *j) {
	set(json_array_get(json_object_get(j, "passthrough"), 0), "name", json_string("ghost"));
}
static void m_alias(json_t *j) { set(json_object_get(j, "aliases"), "lm_head.weight", json_string("nowhere")); }
static void m_alias_name(json_t *j) {
	set(json_object_get(j, "aliases"), "model.norm.weight", json_string("odd.bias"));
}
static void m_notensors(json_t *j) { json_object_del(j, "tensors"); }
static void m_entry(json_t *j) { json_array_set_new(json_object_get(j, "tensors"), 0, json_integer(3)); }
static void m_sidecar(json_t *j) { set(j, "sidecar", json_string("../x.safetensors")); }
static void m_nosidecar(json_t *j) { set(j, "sidecar", json_string("x.safetensors")); }
static void m_unknown(json_t *j) {
	set(j, "format", json_string("whit-turboquant")), set(entry(j, 0), "format", json_string("zz9"));
}
static void m_auto(json_t *j) { set(entry(j, 0), "format", json_string("tq4")); }
static void m_mse(json_t *j) { set(entry(j, 0), "rel_mse", json_string("x")); }
static void m_zero(json_t *j) { set(entry(j, 0), "zero_groups", json_integer(-1)); }

static void ok_extra(json_t *j) {
	set(j, "news", json_integer(1));
	set(entry(j, 0), "news", json_integer(1));
	set(rot0(j), "news", json_integer(1));
}
/* Defaults at the top serve entries that say nothing. */
static void ok_defaults(json_t *j) {
	for (int i = 0; i < 3; i++) {
		static const char *const key[] = {"bits", "group", "norm_dtype", "codebook"};
		for (int k = 0; k < 4; k++) json_object_del(entry(j, i), key[k]);
		set(entry(j, i), "rel_mse", json_null());
	}
	set(j, "norm_dtype", json_string("F16"));
	set(j, "codebook", json_string("c0"));
}
/* An entry's own fields beat wrong defaults. */
static void ok_override(json_t *j) {
	set(j, "bits", json_integer(2));
	set(j, "group", json_integer(64));
	set(j, "norm_dtype", json_string("F32"));
	set(j, "codebook", json_string("none such"));
	set(j, "rotation", json_string("none such"));
}
static void ok_alias(json_t *j) {
	set(json_object_get(j, "aliases"), "lm_head.weight", json_string("model.embed_tokens.weight"));
}

/* A copy of packed directory `from`, its manifest changed. */
static void put_changed(const char *from, const char *to, void (*change)(json_t *)) {
	whit_err e;
	json_t *j;
	if (whit_json_load(&j, in(from, "quant_manifest.json"), &e)) abort();
	change(j);
	if (whit_json_write(j, in(to, "quant_manifest.json"), &e)) abort();
	json_decref(j);
}

static void manifests(void) {
	static const struct {
		void (*change)(json_t *);
		const char *word; /* NULL: still good */
	} lie[] = {
	        {m_format, "need whit-turboquant or whit-packed"},
	        {m_version, "format_version is 2, need 1"},
	        {m_noversion, "format_version is absent"},
	        {m_prod, "turboquant_prod"},
	        {m_packing, "need lsb_le"},
	        {m_kind, "kind is givens"},
	        {m_tq3, "kind is tq3"},
	        {m_dim, "dim is 512, need 256"},
	        {m_block, "impossible"},
	        {m_hugeblock, "key block is 1073741824"},
	        {m_base, "base 13"},
	        {m_norot, "rotations.r0: is absent"},
	        {m_rotless, "key rotation is absent"},
	        {m_nocode, "codebooks.c0: is absent"},
	        {m_short, "has 15 values, need 16"},
	        {m_order, "ascending"},
	        {m_text, "is string, need number"},
	        {m_big, "need finite"},
	        {m_bits, "tq_codes is U8 [16, 128], need U8 [16, 96]"},
	        {m_bits9, "is 9, need 1 to 8"},
	        {m_group, "tq_scales is F16 [16, 2], need F16 [16, 4]"},
	        {m_group100, "unknown"},
	        {m_padded, "need U8 [16, 256]"},
	        {m_padless, "padded is 128, need at least 256"},
	        {m_padhuge, "key padded is"},
	        {m_norm, "need F16 or F32"},
	        {m_norm32, "need F32 [16, 2]"},
	        {m_prefix, "nobody.tq_codes is absent"},
	        {m_shape, "need U8 [17, 128]"},
	        {m_shape0, "positive integer"},
	        {m_shapebig, "under 2^63"},
	        {m_dtype, "BF17"},
	        {m_twice, "already belongs"},
	        {m_unlisted, "is not listed"},
	        {m_passgone, "is not listed"},
	        {m_passshape, "need F32 [255]"},
	        {m_passghost, "ghost: is absent"},
	        {m_alias, "need a tensor that is stored"},
	        {m_alias_name, "listed twice"},
	        {m_notensors, "key tensors is absent"},
	        {m_entry, "need object"},
	        {m_sidecar, "beside the manifest"},
	        {m_nosidecar, "x.safetensors"},
	        {m_unknown, "unknown"},
	        {m_auto, "need its group"},
	        {m_mse, "need number"},
	        {m_zero, "is -1"},
	        {ok_extra, NULL},
	        {ok_defaults, NULL},
	        {ok_override, NULL},
	        {ok_alias, NULL},
	};
	char *src = hf_dir("ck_msrc"), *good = test_scratch("ck_mgood"), *dir = test_scratch("ck_mbad");
	whit_err e;
	whit_ckpt c, g;
	made q[N_SAMPLE] = {0};
	CHECK_RC(pack(src, good, "tq4g128", WHIT_ROT_HADAMARD, 0, 0, q, &e), e);
	for (int i = 0; i < N_SAMPLE; i++) unmake(&q[i]);
	memset(q, 0, sizeof q);
	CHECK_RC(pack(src, dir, "tq4g128", WHIT_ROT_HADAMARD, 0, 0, q, &e), e);
	if (!CHECK_RC(whit_ckpt_open(&g, good, &e), e)) return;
	for (int64_t i = 0; i < WHIT_COUNT(lie); i++) {
		put_changed(good, dir, lie[i].change);
		if (lie[i].word) {
			CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, lie[i].word);
			CHECK_MSG(strstr(e.text, "ck_mbad"), "names the file: %s", e.text);
		} else if (CHECK_RC(whit_ckpt_open(&c, dir, &e), e)) {
			for (int64_t k = 0; k < g.n; k++) {
				const whit_weight *w = whit_ckpt_find(&c, g.w[k].name);
				if (!CHECK(w != NULL) || w->passthrough) continue;
				CHECK(!memcmp(w->mat.plane[0], g.w[k].mat.plane[0],
				              w->mat.row_bytes[0] * (size_t)w->mat.rows));
				CHECK(!memcmp(w->mat.codebook, g.w[k].mat.codebook, 16 * sizeof(float)) && w->mat.rot);
			}
			if (lie[i].change == ok_alias) {
				const whit_weight *head = whit_ckpt_find(&c, "lm_head.weight");
				CHECK(head && head == whit_ckpt_find(&c, "model.embed_tokens.weight") && !head->alias);
				CHECK_INT(c.n, g.n + 1);
				/* Aliases travel on when the directory is packed again. */
				char *third = test_scratch("ck_malias");
				made none[N_SAMPLE + 1] = {0};
				whit_ckpt t;
				CHECK_RC(pack(dir, third, "tq4g128", WHIT_ROT_HADAMARD, 0, 0, none, &e), e);
				if (CHECK_RC(whit_ckpt_open(&t, third, &e), e)) {
					CHECK(whit_ckpt_find(&t, "lm_head.weight") != NULL);
					whit_ckpt_close(&t);
				}
				whit_free(third);
			}
			whit_ckpt_close(&c);
		}
	}
	whit_ckpt_close(&g);
	for (int i = 0; i < N_SAMPLE; i++) unmake(&q[i]);
	whit_free(src);
	whit_free(good);
	whit_free(dir);
}

static void nonfinite_scales(void) {
	static const uint16_t bad[] = {0x7c00, 0xfc00, 0x7e00};
	char *src = hf_dir("ck_nsrc"), *dir = test_scratch("ck_nan");
	whit_err e;
	whit_ckpt c;
	made q[N_SAMPLE] = {0};
	CHECK_RC(pack(src, dir, "tq4g128", WHIT_ROT_HADAMARD, 0, 0, q, &e), e);
	char *path = in(dir, "turboquant_weights.safetensors");
	whit_st s;
	CHECK_RC(whit_st_open(&s, path, &e), e);
	size_t n, at = (size_t)(whit_st_find(&s, "model.embed_tokens.tq_scales")->data - s.map.data) + 2 * (2 * 7 + 1);
	whit_st_close(&s);
	uint8_t *b = (uint8_t *)test_read(path, &n);
	for (int i = 0; i < 3; i++) {
		memcpy(b + at, &bad[i], 2);
		test_write(in(dir, "turboquant_weights.safetensors"), b, n);
		CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e,
		            "model.embed_tokens.tq_scales: value at row 7, column 1 is");
	}
	whit_free(b);
	for (int i = 0; i < N_SAMPLE; i++) unmake(&q[i]);
	whit_free(src);
	whit_free(dir);
}

/* The sidecar's matrix and codebook win over what seed and manifest say. */
static void sidecar(void) {
	char *src = hf_dir("ck_ssrc"), *dir = test_scratch("ck_side");
	whit_err e;
	whit_ckpt c;
	whit_st_out *o;
	made q[N_SAMPLE] = {0};
	enum { D = 256 };
	CHECK_RC(pack(src, dir, "tq2row", WHIT_ROT_HAAR_QR, 0, 1, q, &e), e);
	float *pi = whit_alloc(sizeof(float) * D * D), book[4] = {-.1f, -.05f, .05f, .2f},
	      *x = whit_alloc(sizeof(float) * D);
	for (int i = 0; i < D; i++) pi[i * D + (i + 1) % D] = i % 2 ? -1.0f : 1.0f; /* y[i] = +-x[i + 1] */
	for (int round = 0; round < 3; round++) {
		/* 0: good; 1: wrong shape; 2: NaN in the matrix. */
		int64_t shape[2] = {D, D}, four = 4;
		if (round == 2) pi[5] = NAN;
		CHECK_RC(whit_st_out_open(&o, in(dir, "turboquant_sidecar.safetensors"),
		                          2 * whit_st_header_bound("rotation.r0"), &e),
		         e);
		if (round == 1) shape[0] = 2 * D, shape[1] = D / 2;
		CHECK_RC(whit_st_out_begin(o, "rotation.r0", WHIT_F32, 2, shape, &e), e);
		CHECK_RC(whit_st_out_write(o, pi, sizeof(float) * D * D, &e), e);
		CHECK_RC(whit_st_out_begin(o, "codebook.c0", WHIT_F32, 1, &four, &e), e);
		CHECK_RC(whit_st_out_write(o, book, sizeof book, &e), e);
		CHECK_RC(whit_st_out_commit(o, &e), e);
		if (round) {
			CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e,
			            round == 1 ? "need F32 of 2 dimensions of 256" : "is nan");
			continue;
		}
		if (!CHECK_RC(whit_ckpt_open(&c, dir, &e), e)) continue;
		const whit_weight *w = whit_ckpt_find(&c, "model.embed_tokens.weight");
		whit_mat_decode(&w->mat, 3, 4, x);
		float s = whit_f16_to_f32(whit_load_u16(w->mat.plane[1] + 3 * w->mat.row_bytes[1]));
		for (int i = 0; i < D; i++) {
			int code = w->mat.plane[0][3 * w->mat.row_bytes[0] + (size_t)i / 4] >> (2 * (i % 4)) & 3;
			CHECK_NEAR(x[(i + 1) % D], s * book[code] * (i % 2 ? -1 : 1), 1e-6 * fabs(s));
		}
		whit_ckpt_close(&c);
	}
	for (int i = 0; i < N_SAMPLE; i++) unmake(&q[i]);
	whit_free(x);
	whit_free(pi);
	whit_free(src);
	whit_free(dir);
}

static void writer_misuse(void) {
	char *src = hf_dir("ck_wsrc"), *to = test_scratch("ck_wout");
	whit_err e;
	whit_ckpt c;
	whit_outdir dir;
	whit_packed_out *o;
	whit_packed_info info = {.method = "nearest"};
	CHECK_RC(whit_ckpt_open(&c, src, &e), e);
	CHECK_RC(whit_outdir_open(&dir, to, 0, &e), e);
	CHECK_RC(whit_packed_open(&o, &dir, &c, 1, &info, &e), e);
	CHECK_RC(whit_packed_pass(o, &c.w[0], NULL, &e), e);
	CHECK_FAILS(whit_packed_pass(o, &c.w[0], NULL, &e), WHIT_EINTERNAL, e, "added twice");
	whit_weight stranger = c.w[1];
	CHECK_FAILS(whit_packed_pass(o, &stranger, NULL, &e), WHIT_EINTERNAL, e, "no weight of");
	CHECK_FAILS(whit_packed_commit(o, &e), WHIT_EINTERNAL, e, "never added");
	whit_outdir_abort(&dir);
	CHECK(!whit_file_exists(to));
	whit_ckpt_close(&c);
	whit_free(src);
	whit_free(to);
}

/* ---- TQ3 ---- */

/* torch.randint(0, 2, (128,)) twice from torch.Generator().manual_seed(42), draw i = bit i. */
static const uint64_t tq3_d1[2] = {0x1ab7c173fd74222, 0x656b5fe7ff4abaf6},
                      tq3_d2[2] = {0x2440e65ca821d007, 0x1425bfcbc501d238};
/* Lloyd's 100 steps from equal-probability boundaries on N(0,1), by Python's statistics.NormalDist. */
static const double tq3_book[5][8] = {
        [2] = {.453, 1.51},
        [3] = {.245094, .7560047, 1.3439084, 2.1519449},
        [4] = {.1259629, .3809324, .6454862, .9277413, 1.2393787, 1.6001883, 2.0515376, 2.7171369},
};

static double tq3_level(int bits, int code) {
	int half = 1 << (bits - 1);
	return code < half ? -tq3_book[bits][half - 1 - code] : tq3_book[bits][code - half];
}

/* codes: one of 128 groups, norm: its; out[128]. w = norm * D1 H D2 c / sqrt(128), H by its definition. */
static void tq3_decode(const int *code, int bits, double norm, double out[128]) {
	for (int i = 0; i < 128; i++) {
		double sum = 0;
		for (int j = 0; j < 128; j++) {
			double y = tq3_level(bits, code[j]) / sqrt(128) * (tq3_d2[j / 64] >> (j % 64) & 1 ? 1 : -1);
			sum += __builtin_parity((unsigned)(i & j)) ? -y : y;
		}
		out[i] = norm * sum / sqrt(128) * (tq3_d1[i / 64] >> (i % 64) & 1 ? 1 : -1);
	}
}

enum { TQ3_ROWS = 3, TQ3_GROUPS = 2, TQ3_COLS = 200 };

/* One packed weight of TQ3_ROWS x TQ3_GROUPS groups; codes[] and norms[] are what it holds. */
static void put_tq3(whit_st_out *o, const char *name, int bits, uint64_t key, int *codes, float *norms) {
	enum { N = TQ3_ROWS * TQ3_GROUPS };
	whit_rng r;
	whit_err e;
	uint8_t bytes[N * 128] = {0};
	whit_rng_key(&r, 5, key, 0);
	for (int i = 0; i < N * 128; i++) {
		codes[i] = (int)whit_rng_below(&r, (uint64_t)1 << bits);
		for (int b = 0; b < bits; b++) {
			int at = i % 128 * bits + b,
			    group = i / 128 * 16 * bits; /* each group's stream starts on its own byte */
			bytes[group + at / 8] |= (uint8_t)((codes[i] >> b & 1) << (at % 8));
		}
	}
	for (int i = 0; i < N; i++) norms[i] = (float)whit_rng_uniform(&r);
	char *a = whit_format_text("%s.tq_packed", name), *b = whit_format_text("%s.tq_norms", name);
	CHECK_RC(whit_st_out_begin(o, a, WHIT_U8, 2, (int64_t[]){N, 16 * bits}, &e), e);
	CHECK_RC(whit_st_out_write(o, bytes, (size_t)(N * 16 * bits), &e), e);
	CHECK_RC(whit_st_out_begin(o, b, WHIT_F32, 2, (int64_t[]){TQ3_ROWS, TQ3_GROUPS}, &e), e);
	CHECK_RC(whit_st_out_write(o, norms, sizeof(float) * N, &e), e);
	whit_free(a);
	whit_free(b);
}

static const char tq3_config[] =
        "{\"format\":\"tq3_native\",\"bits\":3,\"group_size\":128,\"quantizer_seed\":42,\"compressed_layers\":3,"
        "\"original_model\":\"x\",\"sensitive_bits\":4,\"sensitive_patterns\":[\"o_proj\",\"down_proj\"]}";

static void tq3(void) {
	static const struct {
		const char *name;
		int bits;
		int64_t cols;
	} w[] = {
	        {"model.layers.0.self_attn.q_proj.weight", 3, TQ3_COLS},
	        {"model.layers.0.self_attn.o_proj.weight", 4, 256},
	        {"model.layers.0.mlp.down_proj.weight", 4, 250},
	        {"mixer.weight", 3, 256},
	};
	enum { N = 4, CODES = TQ3_ROWS * TQ3_GROUPS * 128 };
	static int codes[N][CODES];
	float norms[N][TQ3_ROWS * TQ3_GROUPS];
	char *dir = fresh_dir("ck_tq3");
	whit_err e;
	whit_ckpt c;
	whit_st_out *o;
	static const char model[] =
	        "{\"model_type\":\"llama\",\"hidden_size\":200,\"intermediate_size\":250,\"num_attention_heads\":8,"
	        "\"head_dim\":32,"
	        "\"torch_dtype\":\"bfloat16\",\"quantization_config\":{\"quant_method\":\"turboquant\"}}";
	put_text(dir, "config.json", model);
	put_text(dir, "tq_config.json", tq3_config);
	CHECK_RC(whit_st_out_open(&o, in(dir, "model.safetensors"), 4096, &e), e);
	for (int i = 0; i < N; i++) put_tq3(o, w[i].name, w[i].bits, (uint64_t)i, codes[i], norms[i]);
	CHECK_RC(whit_st_out_begin(o, "model.norm.weight", WHIT_F16, 1, (int64_t[]){4}, &e), e);
	CHECK_RC(whit_st_out_write(o, "\0\x3c\0\x3c\0\x3c\0\x3c", 8, &e), e);
	CHECK_RC(whit_st_out_commit(o, &e), e);
	if (!CHECK_RC(whit_ckpt_open(&c, dir, &e), e)) return;
	CHECK_INT(c.kind, WHIT_CKPT_TQ3);
	CHECK_INT(c.n, N + 1);
	for (int i = 0; i < N; i++) {
		const whit_weight *t = whit_ckpt_find(&c, w[i].name);
		if (!CHECK(t != NULL)) continue;
		CHECK(t->mat.rows == TQ3_ROWS && t->mat.cols == w[i].cols && t->shape[1] == w[i].cols &&
		      t->dtype == WHIT_BF16 && !t->passthrough);
		float x[TQ3_ROWS * 256];
		whit_mat_decode(&t->mat, 0, TQ3_ROWS, x);
		for (int r = 0; r < TQ3_ROWS; r++)
			for (int g = 0; g < TQ3_GROUPS; g++) {
				double want[128];
				int k = r * TQ3_GROUPS + g;
				tq3_decode(codes[i] + k * 128, w[i].bits, norms[i][k], want);
				/* Book values are given to 1e-7, sums of 128 of them scaled by 1/128; floats add 7
				 * roundings of values < 1. */
				for (int j = 0; j < 128 && g * 128 + j < w[i].cols; j++)
					if (!(fabs(x[r * w[i].cols + g * 128 + j] - want[j]) <= 2e-6)) {
						CHECK_NEAR(x[r * w[i].cols + g * 128 + j], want[j], 2e-6);
						return;
					}
			}
		CHECK_MSG(1, "%s decodes", w[i].name);
	}
	whit_ckpt_close(&c);
	/* Bad ones. */
	static const struct {
		const char *file, *text, *word;
	} bad[] = {
	        {"tq_config.json", "{\"format\":\"tq4_native\",\"bits\":3}", "need tq3_native"},
	        {"tq_config.json", "{\"format\":\"tq3_native\",\"bits\":5}", "bits is 5, need 2, 3, 4 or 8"},
	        {"tq_config.json", "{\"format\":\"tq3_native\",\"bits\":3,\"group_size\":96}", "need 64, 128 or 256"},
	        {"tq_config.json", "{\"format\":\"tq3_native\",\"bits\":3}", "is U8 [6, 64], need U8 [6, 48]"},
	        {"tq_config.json", "{\"format\":\"tq3_native\",\"bits\":3,\"sensitive_bits\":4}",
	         "sensitive_patterns is absent"},
	        {"config.json",
	         "{\"hidden_size\":300,\"intermediate_size\":250,\"num_attention_heads\":8,\"head_dim\":32}",
	         "has 2 groups, need 3"},
	        {"config.json", "{\"hidden_size\":200,\"num_attention_heads\":8,\"head_dim\":32}",
	         "intermediate_size is absent"},
	};
	for (int64_t i = 0; i < WHIT_COUNT(bad); i++) {
		put_text(dir, "config.json", model);
		put_text(dir, "tq_config.json", tq3_config);
		put_text(dir, bad[i].file, bad[i].text);
		CHECK_FAILS(whit_ckpt_open(&c, dir, &e), WHIT_EINPUT, e, bad[i].word);
	}
	whit_free(dir);
}

/* The real models: every weight is listed and the fingerprint does not depend on threads. */
static void real_models(void) {
	char *dir = test_model("wiki12M-qwen3"), a[48], b[48];
	if (!dir) return;
	whit_ckpt c;
	whit_err e;
	if (CHECK_RC(whit_ckpt_open(&c, dir, &e), e)) {
		int64_t count = 0;
		size_t bytes;
		char *raw = test_read(in(dir, "model.safetensors"), &bytes);
		for (int64_t i = 0; i < c.n; i++) count += c.w[i].mat.rows * c.w[i].mat.cols;
		CHECK_INT(2 * count, bytes - 8 - whit_load_u64(raw)); /* all of it is BF16 */
		whit_free(raw);
		whit_ckpt_close(&c);
	}
	fingerprint_of(dir, 1, a);
	fingerprint_of(dir, 4, b);
	CHECK_TEXT(a, b);
	whit_free(dir);
}

TEST_MAIN(plain, sharded, bad_directories, round_trip, manifests, nonfinite_scales, sidecar, writer_misuse, tq3,
          real_models)
