/* checkpoint_gguf: a GGUF file, or the set of files it is split into, as a checkpoint: tensors under Hugging Face's
 * names, config.json out of the metadata. A file of another architecture, or with keys and tensors that whit does not
 * implement, opens too, to be listed under the names it has: c->unfit then says what no engine can run. Refuses
 * splits that are not complete, and what the container's reader refuses. */
#include <math.h>
#include <stdio.h>
#include "formats/checkpoint_own.h"
#include "formats/gguf_model.h"

/* ---- the files ---- */

enum { MOST_FILES = 65535 };

/* What follows the prefix of the name of file no of a split: "-00001-of-00003.gguf". */
static void split_suffix(int64_t no, int64_t count, char out[40]) {
	snprintf(out, 40, "-%05d-of-%05d.gguf", (int)no + 1, (int)count);
}

static int check_part(const whit_gguf *g, int64_t no, int64_t count, int64_t *total, whit_err *e) {
	int64_t have_no, have_count, have_total;
	int rc = whit_gguf_int(g, "split.count", 1, 0, MOST_FILES, &have_count, e);
	if (!rc) rc = whit_gguf_int(g, "split.no", 1, 0, MOST_FILES, &have_no, e);
	if (!rc) rc = whit_gguf_int(g, "split.tensors.count", 1, 0, INT64_MAX, &have_total, e);
	if (rc) return rc;
	if (have_count != count || have_no != no)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: is file %lld of %lld (split.no from 0, split.count), need %lld of %lld", g->name,
		                 (long long)have_no, (long long)have_count, (long long)no, (long long)count);
	if (no == 0) *total = have_total;
	if (have_total != *total)
		return whit_fail(e, WHIT_EINPUT, "%s: key split.tensors.count: is %lld, need the first file's %lld",
		                 g->name, (long long)have_total, (long long)*total);
	return 0;
}

/* Opens all files of the split that c->path is one of. */
static int open_split(whit_ckpt *c, int64_t no, int64_t count, whit_err *e) {
	struct whit_ckpt_private *o = c->own;
	char suffix[40];
	split_suffix(no, count, suffix);
	size_t n = strlen(c->path), k = strlen(suffix);
	if (no >= count)
		return whit_fail(e, WHIT_EINPUT, "%s: key split.no: is %lld, need less than split.count, %lld", c->path,
		                 (long long)no, (long long)count);
	if (n < k || strcmp(c->path + n - k, suffix))
		return whit_fail(e, WHIT_EINPUT, "%s: holds part of a split model, need a name that ends in \"%s\"",
		                 c->path, suffix);
	char *prefix = whit_ckpt_text(c, "%.*s", (int)(n - k), c->path);
	int64_t total = 0, tensors = 0;
	int rc = 0;
	o->gguf = whit_alloc((size_t)count * sizeof *o->gguf);
	for (int64_t i = 0; i < count && !rc; i++) {
		split_suffix(i, count, suffix);
		const char *path = whit_ckpt_text(c, "%s%s", prefix, suffix);
		if (!whit_file_exists(path))
			return whit_fail(e, WHIT_EINPUT, "%s: is missing, need all %lld files of the split", path,
			                 (long long)count);
		if ((rc = whit_gguf_open(&o->gguf[i], path, e))) return rc;
		o->n_gguf++;
		tensors += o->gguf[i].n;
		rc = check_part(&o->gguf[i], i, count, &total, e);
	}
	if (!rc && tensors != total)
		rc = whit_fail(e, WHIT_EINPUT,
		               "%s%s: key split.tensors.count: is %lld, need %lld, as many as there are", prefix,
		               suffix, (long long)total, (long long)tensors);
	if (!rc) rc = whit_gguf_join(&o->joined, o->gguf, count, e);
	if (rc) return rc;
	whit_free(c->path);
	whit_free(c->config_path);
	c->path = whit_strdup(o->gguf[0].map.path);
	c->config_path = whit_strdup(c->path);
	c->gguf = &o->joined;
	return 0;
}

static int open_files(whit_ckpt *c, whit_err *e) {
	struct whit_ckpt_private *o = c->own;
	int64_t count = 0, no = 0;
	o->gguf = whit_alloc(sizeof *o->gguf);
	int rc = whit_gguf_open(o->gguf, c->path, e);
	if (rc) return rc;
	o->n_gguf = 1;
	c->gguf = o->gguf;
	rc = whit_gguf_int(c->gguf, "split.count", 0, 0, MOST_FILES, &count, e);
	if (!rc && count > 1) rc = whit_gguf_int(c->gguf, "split.no", 1, 0, MOST_FILES, &no, e);
	if (!rc && count > 1) { /* again from the first: few files are opened so, and their order is then theirs */
		whit_gguf_close(o->gguf);
		whit_free(o->gguf);
		o->gguf = NULL;
		o->n_gguf = 0;
		rc = open_split(c, no, count, e);
	}
	for (int64_t i = 0; i < o->n_gguf; i++) c->file_bytes += (int64_t)o->gguf[i].map.bytes;
	return rc;
}

/* ---- weights ---- */

static const struct {
	const char *name;
	int dtype;
} plain[] = {{"F32", WHIT_F32}, {"F16", WHIT_F16}, {"BF16", WHIT_BF16}, {"F64", WHIT_F64},
             {"I8", WHIT_I8},   {"I16", WHIT_I16}, {"I32", WHIT_I32},   {"I64", WHIT_I64}};

/* Values of a bias that is stored in pairs, in logical order. */
static int unpair_vector(whit_ckpt *c, whit_weight *w, int64_t head, const whit_ggml_type *type, whit_err *e) {
	const whit_mat order = {.paired = head};
	size_t each = (size_t)type->bytes;
	if (type->block != 1)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is a vector of %s, need F32, F16 or BF16", w->file,
		                 w->name, type->name);
	uint8_t *copy = whit_take_bytes(&c->own->arena, (size_t)w->bytes);
	for (int64_t i = 0; i < w->mat.cols; i++)
		memcpy(copy + (size_t)i * each, w->mat.plane[0] + (size_t)whit_mat_row(&order, i) * each, each);
	w->mat.plane[0] = copy;
	return 0;
}

static int ends_in(const char *s, const char *end) {
	size_t n = strlen(s), k = strlen(end);
	return n >= k && !strcmp(s + n - k, end);
}

/* a: NULL = the names are nobody's. head: rows of a head where q and k are stored in pairs, else 0. */
static int bind_weight(whit_ckpt *c, const whit_gguf_arch *a, int64_t head, const whit_gguf_tensor *t, whit_weight *w,
                       whit_err *e) {
	char hf[128];
	int64_t layers = json_integer_value(json_object_get(c->config, "num_hidden_layers"));
	int known = a && !whit_gguf_name_to_hf(a, t->name, layers, hf), rc = 0;
	whit_mat *m = &w->mat;
	w->name = known ? whit_ckpt_text(c, "%s", hf) : t->name;
	w->file = t->file;
	w->type = t->type->name;
	w->bytes = (int64_t)t->bytes;
	w->dtype = WHIT_F32;
	w->rel_mse = NAN; /* of blocks: nobody wrote it down */
	for (int64_t i = 0; i < WHIT_COUNT(plain); i++) {
		if (strcmp(plain[i].name, t->type->name)) continue;
		w->dtype = plain[i].dtype;
		w->passthrough = 1;
		w->rel_mse = 0;
	}
	w->ndim = t->ndim;
	int64_t count = 1;
	for (int d = 0; d < t->ndim; d++) {
		w->shape[d] = t->ne[t->ndim - 1 - d];
		count *= w->shape[d];
	}
	if (known && w->ndim == 2 && ends_in(w->name, ".conv1d.weight")) { /* channels, 1, taps */
		w->shape[2] = w->shape[1];
		w->shape[1] = 1;
		w->ndim = 3;
	}
	if (!count)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: has a dimension of 0, need 1 or more", t->file,
		                 t->name);
	m->rows = w->ndim > 1 ? w->shape[0] : 1;
	m->cols = m->width = count / m->rows;
	m->plane[0] = t->data;
	m->row_bytes[0] = t->bytes / (size_t)m->rows;
	if (t->type->format) rc = whit_spec_parse(t->type->format, &m->spec, e);
	if (rc || !head || !known || !whit_gguf_is_paired(a, w->name)) return rc;
	/* Another number of rows is no shape that the model has: the engine says so. */
	if (w->ndim > 1 && m->rows % head == 0)
		m->paired = head;
	else if (w->ndim == 1 && m->cols % head == 0)
		rc = unpair_vector(c, w, head, t->type, e);
	return rc;
}

static int bind_all(whit_ckpt *c, const whit_gguf_arch *a, int64_t head, whit_err *e) {
	int rc = 0;
	c->w = whit_alloc((size_t)(c->gguf->n + 1) * sizeof *c->w);
	for (int64_t i = 0; i < c->gguf->n && !rc; i++) {
		const whit_gguf_tensor *t = &c->gguf->t[i];
		if (a && !c->unfit && ends_in(t->name, ".scale"))
			c->unfit =
			        whit_ckpt_text(c, "%s: tensor %s: is a factor on a product, which is not implemented",
			                       t->file, t->name);
		if (a && !strcmp(t->name, "rope_freqs.weight")) continue; /* the config has it */
		rc = bind_weight(c, a, head, t, &c->w[c->n++], e);
	}
	return rc;
}

int whit_ckpt_read_gguf(whit_ckpt *c, whit_err *e) {
	const char *arch;
	whit_err why = {0};
	int64_t dim = 0;
	c->kind = WHIT_CKPT_GGUF;
	int rc = open_files(c, e);
	if (!rc) rc = whit_gguf_string(c->gguf, "general.architecture", 1, &arch, e);
	if (rc) return rc;
	const whit_gguf_arch *a = whit_gguf_arch_find(arch, &why);
	if (!a)
		c->unfit = whit_ckpt_text(c, "%s: %s", c->path, why.text);
	else if (whit_gguf_config(c->gguf, a, &c->config, &why))
		c->unfit = whit_ckpt_text(c, "%s", why.text);
	else if (a->paired)
		dim = json_integer_value(json_object_get(c->config, "head_dim"));
	if (!c->config) { /* what can be said: a name that is no UTF-8 is nobody's */
		c->config = json_object();
		json_object_set_new(c->config, "model_type", json_string(arch));
		a = NULL;
	}
	return bind_all(c, a, dim % 2 ? 0 : dim, e);
}
