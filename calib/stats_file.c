/* stats_file: a layer's sums as a safetensors file, whose metadata says how many chunks are in them. */
#include <stdio.h>
#include <stdlib.h>
#include "calib/stats_own.h"

static const char *const seen_keys[] = {"chunks_inputs", "chunks_gradients"};

char *whit_stats_layer_path(const char *dir, int64_t layer, int64_t layers) {
	return layer < layers ? whit_format_text("%s/layer-%05lld.safetensors", dir, (long long)layer)
	                      : whit_format_text("%s/head.safetensors", dir);
}

int64_t whit_sum_elements(const whit_sum *u) { return u->shape[0] * u->shape[1] * u->shape[2]; }

size_t whit_sum_bytes(const whit_sum *u) {
	return (size_t)whit_sum_elements(u) * (u->dtype == WHIT_F64 ? sizeof(double) : sizeof(float));
}

int whit_stats_layer_save(const whit_stats_layer *l, const char *path, whit_err *e) {
	whit_st_out *o;
	size_t header = 1024;
	char number[32];
	for (int64_t i = 0; i < l->n; i++) header += whit_st_header_bound(l->sum[i].name);
	int rc = whit_st_out_open(&o, path, header, e);
	if (rc) return rc;
	for (int k = 0; k < 2 && !rc; k++) {
		snprintf(number, sizeof number, "%lld", (long long)l->seen[k]);
		rc = whit_st_out_meta(o, seen_keys[k], number, e);
	}
	if (!rc) rc = whit_st_out_meta(o, "tokens_hash", l->text, e);
	for (int64_t i = 0; i < l->n && !rc; i++) {
		const whit_sum *u = &l->sum[i];
		rc = whit_st_out_begin(o, u->name, u->dtype, u->ndim, u->shape, e);
		if (!rc) rc = whit_st_out_write(o, u->data, whit_sum_bytes(u), e);
	}
	if (!rc) return whit_st_out_commit(o, e);
	whit_st_out_abort(o);
	return rc;
}

/* "bad" index of a sum read from a file, or -1. */
static int64_t first_bad(const whit_sum *u) {
	if (u->dtype == WHIT_F32) return whit_first_nonfinite(u->data, whit_sum_elements(u));
	const double *x = u->data;
	for (int64_t i = 0; i < whit_sum_elements(u); i++)
		if (!(x[i] - x[i] == 0)) return i;
	return -1;
}

int whit_sum_read(whit_sum *u, const whit_tensor *t, const char *path, whit_err *e) {
	char is[96], need[96];
	if (t->dtype != u->dtype || t->ndim != u->ndim ||
	    memcmp(t->shape, u->shape, (size_t)u->ndim * sizeof *u->shape)) {
		whit_shape_text(t->shape, t->ndim, is);
		whit_shape_text(u->shape, u->ndim, need);
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is %s %s, need %s %s", path, t->name,
		                 whit_dtype_name(t->dtype), is, whit_dtype_name(u->dtype), need);
	}
	u->data = whit_alloc(whit_sum_bytes(u));
	memcpy(u->data, t->data, t->bytes);
	int64_t bad = first_bad(u);
	return bad < 0 ? 0
	               : whit_fail(e, WHIT_ENONFINITE, "%s: tensor %s: value %lld is not finite, need a finite one",
	                           path, t->name, (long long)bad);
}

static const char *meta(const whit_st *st, const char *key) {
	for (int64_t i = 0; i < st->n_meta; i++)
		if (!strcmp(st->meta[2 * i], key)) return st->meta[2 * i + 1];
	return NULL;
}

int whit_stats_seen(const whit_st *st, const char *path, int64_t seen[2], whit_err *e) {
	for (int k = 0; k < 2; k++) {
		const char *v = meta(st, seen_keys[k]);
		char *end = NULL;
		seen[k] = v ? strtoll(v, &end, 10) : -1;
		if (seen[k] < 0 || !end || *end || end == v)
			return whit_fail(e, WHIT_EINPUT, "%s: metadata %s is %.40s, need a count", path, seen_keys[k],
			                 v ? v : "absent");
	}
	return 0;
}

int whit_stats_layer_load(whit_stats_layer *l, const char *path, whit_err *e) {
	whit_st st;
	whit_stats_layer_drop(l);
	if (!whit_file_exists(path)) {
		for (int64_t i = 0; i < l->n; i++) l->sum[i].data = whit_alloc(whit_sum_bytes(&l->sum[i]));
		return 0;
	}
	int rc = whit_st_open(&st, path, e);
	if (rc) return rc;
	if (st.n != l->n)
		rc = whit_fail(e, WHIT_EINPUT, "%s: has %lld tensors, need %lld", path, (long long)st.n,
		               (long long)l->n);
	if (!rc) rc = whit_stats_seen(&st, path, l->seen, e);
	const char *text = rc ? NULL : meta(&st, "tokens_hash");
	if (!rc && (!text || strcmp(text, l->text)))
		rc = whit_fail(e, WHIT_EFINGERPRINT, "%s: is of tokens %.40s, need %s", path, text ? text : "(none)",
		               l->text);
	for (int64_t i = 0; i < l->n && !rc; i++) {
		const whit_tensor *t = whit_st_find(&st, l->sum[i].name);
		rc = t ? whit_sum_read(&l->sum[i], t, path, e)
		       : whit_fail(e, WHIT_EINPUT, "%s: tensor %s is missing", path, l->sum[i].name);
	}
	whit_st_close(&st);
	return rc;
}
