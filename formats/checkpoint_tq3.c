/* checkpoint_tq3: reads third-party TQ3 directories (varjoranta/turboquant-vllm; turboquant.md 8):
 *
 *   NAME.tq_packed  U8  [rows * groups, bytes of one group]   our bit order at 2 to 4 bits, else a byte a code
 *   NAME.tq_norms   F32 [rows, groups]                        original / reconstruction norm
 *   w = norm * D1 H D2 c[code] / sqrt(group), cut to the columns that the model's config says
 *
 * Groups of a row lie one after the other, so a row is a row of format tq with F32 scales. */
#include <math.h>
#include "formats/checkpoint_own.h"
#include "formats/codebook.h"

enum { LLOYD_STEPS = 100 };

typedef struct tq3 {
	whit_ckpt *c;
	const char *file; /* tq_config.json, for messages */
	int64_t bits, group, seed, sensitive_bits;
	const json_t *patterns;
	int dtype; /* of the original, as the config says */
	const float *codebook[9];
} tq3;

/* What the program that writes these files computes: constants at 2 bits, else Lloyd's steps, which at
 * 4 bits and above have not converged. */
static const float *codebook(tq3 *q, int bits) {
	double c[256];
	if (q->codebook[bits]) return q->codebook[bits];
	if (bits == 2)
		memcpy(c, (double[]){-1.51, -.453, .453, 1.51}, 4 * sizeof *c);
	else
		whit_lloyd_steps(c, bits, LLOYD_STEPS);
	float *f = whit_take(&q->c->own->arena, (int64_t)1 << bits);
	for (int k = 0; k < 1 << bits; k++) f[k] = (float)(c[k] / sqrt((double)q->group));
	return q->codebook[bits] = f;
}

static int rotation(tq3 *q, int64_t cols, const whit_rotation **out, whit_err *e) {
	struct whit_ckpt_private *o = q->c->own;
	for (whit_named *n = o->rotation; n; n = n->next)
		if (whit_rotation_get(n->p)->dim == cols) {
			*out = n->p;
			return 0;
		}
	whit_rotation_spec s = {
	        .kind = WHIT_ROT_TQ3, .seed = (uint64_t)q->seed, .dim = cols, .block = q->group, .base = 1};
	whit_rotation *r;
	int rc = whit_rotation_new(&r, &s, NULL, e);
	if (rc) return whit_fail_in(e, "%s", q->file);
	whit_named *n = whit_take_bytes(&o->arena, sizeof *n);
	*n = (whit_named){"", r, o->rotation};
	o->rotation = n;
	*out = r;
	return 0;
}

/* Input width of a weight whose padding the file does not tell; 0 where the name says nothing. */
static int config_cols(const whit_ckpt *c, const char *name, int64_t *cols, whit_err *e) {
	static const struct {
		const char *part, *key;
	} input[] = {
	        {".q_proj.", "hidden_size"},       {".k_proj.", "hidden_size"},          {".v_proj.", "hidden_size"},
	        {".qkv_proj.", "hidden_size"},     {".gate_proj.", "hidden_size"},       {".up_proj.", "hidden_size"},
	        {".gate_up_proj.", "hidden_size"}, {".down_proj.", "intermediate_size"}, {".o_proj.", NULL},
	};
	const json_t *config = c->config, *text = json_object_get(config, "text_config");
	if (json_is_object(text)) config = text;
	*cols = 0;
	for (int64_t i = 0; i < WHIT_COUNT(input); i++) {
		if (!strstr(name, input[i].part) || strstr(name, "expert")) continue;
		if (input[i].key) return whit_json_int(config, c->config_path, input[i].key, 1, 1, 1 << 24, cols, e);
		int64_t hidden, heads, dim;
		int rc = whit_json_int(config, c->config_path, "hidden_size", 1, 1, 1 << 24, &hidden, e);
		if (rc || (rc = whit_json_int(config, c->config_path, "num_attention_heads", 1, 1, 1 << 16, &heads, e)))
			return rc;
		dim = WHIT_MAX(hidden / heads, 1);
		if ((rc = whit_json_int(config, c->config_path, "head_dim", 0, 1, 1 << 16, &dim, e))) return rc;
		*cols = heads * dim;
		return 0;
	}
	return 0;
}

static int64_t tensor_bits(const tq3 *q, const char *name) {
	size_t i;
	json_t *p;
	if (q->sensitive_bits)
		json_array_foreach(q->patterns, i, p) if (json_is_string(p) &&
		                                          strstr(name, json_string_value(p))) return q->sensitive_bits;
	return q->bits;
}

static int wrong_shape(const whit_tensor *t, int dtype, int64_t rows, int64_t cols, whit_err *e) {
	char shape[96];
	whit_shape_text(t->shape, t->ndim, shape);
	return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s: is %s %s, need %s [%lld, %lld]", t->file, t->name,
	                 whit_dtype_name(t->dtype), shape, whit_dtype_name(dtype), (long long)rows, (long long)cols);
}

static int read_weight(tq3 *q, whit_stored *codes, size_t base, whit_weight *w, whit_err *e) {
	whit_ckpt *c = q->c;
	whit_mat *m = &w->mat;
	const whit_tensor *t = codes->t;
	w->name = whit_ckpt_text(c, "%.*s", (int)base, t->name);
	whit_stored *norms = whit_ckpt_stored(c, whit_ckpt_text(c, "%s.tq_norms", w->name));
	if (!norms) return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s: has codes but no .tq_norms", t->file, w->name);
	const whit_tensor *s = norms->t;
	if (s->dtype != WHIT_F32 || s->ndim != 2)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s: is %s of %d dimensions, need F32 [rows, groups]",
		                 s->file, s->name, whit_dtype_name(s->dtype), s->ndim);
	int bits = (int)tensor_bits(q, w->name);
	int64_t rows = s->shape[0], groups = s->shape[1], bytes = bits == 8 ? q->group : q->group * bits / 8, cols;
	if (t->dtype != WHIT_U8 || t->ndim != 2 || t->shape[0] != rows * groups || t->shape[1] != bytes)
		return wrong_shape(t, WHIT_U8, rows * groups, bytes, e);
	int rc = config_cols(c, w->name, &cols, e);
	if (rc) return rc;
	if (!cols) cols = groups * q->group; /* an unknown name: as if nothing were padded */
	if ((cols + q->group - 1) / q->group != groups)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: tensor %.200s: has %lld groups, need %lld for the config's %lld columns", s->file,
		                 s->name, (long long)groups, (long long)((cols + q->group - 1) / q->group),
		                 (long long)cols);
	char spec[32];
	snprintf(spec, sizeof spec, "tq%dg%d", bits, (int)q->group);
	if ((rc = whit_stored_finite(s, e)) || (rc = whit_spec_parse(spec, &m->spec, e)) ||
	    (rc = rotation(q, cols, &m->rot, e)))
		return rc;
	m->rows = rows;
	m->cols = cols;
	m->width = groups * q->group;
	m->scale_f32 = 1;
	m->codebook = codebook(q, bits);
	m->plane[0] = t->data;
	m->row_bytes[0] = (size_t)(groups * bytes);
	m->plane[1] = s->data;
	m->row_bytes[1] = (size_t)groups * sizeof(float);
	w->dtype = q->dtype;
	w->ndim = 2;
	w->shape[0] = rows;
	w->shape[1] = cols;
	w->file = t->file;
	w->type = whit_ckpt_text(c, "%s", spec);
	w->bytes = (int64_t)(t->bytes + s->bytes);
	codes->used = norms->used = 1;
	return 0;
}

static int read_head(tq3 *q, const json_t *j, whit_err *e) {
	const char *format, *dtype = "float16";
	int rc = whit_json_text(j, q->file, "format", 1, &format, e);
	if (rc) return rc;
	if (strcmp(format, "tq3_native"))
		return whit_fail(e, WHIT_EINPUT, "%s: format is %.40s, need tq3_native", q->file, format);
	q->group = 128;
	q->seed = 42;
	if ((rc = whit_json_int(j, q->file, "bits", 1, 2, 8, &q->bits, e)) ||
	    (rc = whit_json_int(j, q->file, "group_size", 0, 64, 256, &q->group, e)) ||
	    (rc = whit_json_int(j, q->file, "quantizer_seed", 0, 0, INT64_MAX, &q->seed, e)) ||
	    (rc = whit_json_int(j, q->file, "sensitive_bits", 0, 2, 8, &q->sensitive_bits, e)) ||
	    (rc = whit_json_member(j, q->file, "sensitive_patterns", q->sensitive_bits != 0, JSON_ARRAY, &q->patterns,
	                           e)))
		return rc;
	if (q->group & (q->group - 1))
		return whit_fail(e, WHIT_EINPUT, "%s: group_size is %lld, need 64, 128 or 256", q->file,
		                 (long long)q->group);
	int64_t bits[] = {q->bits, q->sensitive_bits};
	for (int i = 0; i < 2; i++)
		if (bits[i] > 4 && bits[i] != 8)
			return whit_fail(e, WHIT_EINPUT, "%s: %sbits is %lld, need 2, 3, 4 or 8", q->file,
			                 i ? "sensitive_" : "", (long long)bits[i]);
	const char *key = json_object_get(q->c->config, "dtype") ? "dtype" : "torch_dtype";
	if ((rc = whit_json_text(q->c->config, q->c->config_path, key, 0, &dtype, e))) return rc;
	q->dtype = !strcmp(dtype, "bfloat16") ? WHIT_BF16 : !strcmp(dtype, "float32") ? WHIT_F32 : WHIT_F16;
	return 0;
}

int whit_tq3_read(whit_ckpt *c, const json_t *j, const char *file, whit_err *e) {
	static const char codes[] = ".tq_packed", norms[] = ".tq_norms";
	struct whit_ckpt_private *o = c->own;
	tq3 q = {.c = c, .file = file};
	int rc = read_head(&q, j, e);
	c->w = whit_alloc((size_t)(o->n_t + 1) * sizeof *c->w);
	for (int64_t i = 0; i < o->n_t && !rc; i++) {
		size_t n = strlen(o->t[i].t->name);
		if (n > strlen(codes) && !strcmp(o->t[i].t->name + n - strlen(codes), codes))
			rc = read_weight(&q, &o->t[i], n - strlen(codes), &c->w[c->n++], e);
	}
	for (int64_t i = 0; i < o->n_t && !rc; i++) {
		const char *name = o->t[i].t->name;
		size_t n = strlen(name);
		if (o->t[i].used) continue;
		if (n > strlen(norms) && !strcmp(name + n - strlen(norms), norms))
			rc = whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s: has no .tq_packed beside it",
			               o->t[i].t->file, name);
		else
			rc = whit_weight_plain(&c->w[c->n++], &o->t[i], e);
	}
	return rc;
}
