/* logits:
 *   0 "_logits_"   8 i32 ctx   12 i32 vocab   16 i32 chunks   20 i32 tokens[ctx * chunks]
 *   then, per chunk, ctx-1-ctx/2 rows: f32 step, f32 least, u16 code[vocab], u16 pad if vocab is odd
 *   ln P(v) = step * code[v] + least */
#include "eval/logits.h"
#include <math.h>

enum { HEADER = 20, LEAST_CTX = 3 };
static const char magic[8] = {'_', 'l', 'o', 'g', 'i', 't', 's', '_'};
static const float cut = 16;      /* logits further below the largest are stored as if they were there */
static const float above = 1e-3f; /* a largest ln P may round to this: step and least are floats near 20 */

static int64_t rows_of(int64_t ctx) { return ctx - 1 - ctx / 2; }
static size_t row_bytes(int64_t vocab) { return 2 * (2 * (((size_t)vocab + 1) / 2) + 4); }

/* ---- reading ---- */

static int read_count(const uint8_t *p, const char *name, const char *what, int64_t least, int64_t *v, whit_err *e) {
	*v = (int32_t)whit_load_u32(p);
	if (*v >= least) return 0;
	return whit_fail(e, WHIT_EINPUT, "%s: %s is %lld, need at least %lld", name, what, (long long)*v,
	                 (long long)least);
}

int whit_logits_parse(whit_logits *l, const uint8_t *data, size_t n, const char *name, whit_err *e) {
	uint64_t need;
	int rc;
	memset(l, 0, sizeof *l);
	if (n < HEADER)
		return whit_fail(e, WHIT_EINPUT, "%s: is %zu bytes, need at least the %d of a base-logits header", name,
		                 n, HEADER);
	if (memcmp(data, magic, sizeof magic))
		return whit_fail(e, WHIT_EINPUT, "%s: does not begin with _logits_, need llama.cpp's base-logits file",
		                 name);
	whit_logits r = {.name = name};
	if ((rc = read_count(data + 8, name, "window", LEAST_CTX, &r.ctx, e)) ||
	    (rc = read_count(data + 12, name, "vocabulary", 1, &r.vocab, e)) ||
	    (rc = read_count(data + 16, name, "number of chunks", 1, &r.chunks, e)))
		return rc;
	r.rows = rows_of(r.ctx);
	r.row_bytes = row_bytes(r.vocab);
	/* of one chunk: below 2^31 * 4 + 2^30 * 2^33, which fits */
	need = (uint64_t)r.ctx * 4 + (uint64_t)r.rows * r.row_bytes;
	if (__builtin_mul_overflow(need, (uint64_t)r.chunks, &need)) need = UINT64_MAX - HEADER;
	if (n - HEADER != need)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: is %zu bytes, need %llu for %lld chunks of %lld tokens, vocabulary %lld", name, n,
		                 (unsigned long long)(need + HEADER), (long long)r.chunks, (long long)r.ctx,
		                 (long long)r.vocab);
	r.tokens = data + HEADER;
	r.row = r.tokens + 4 * r.ctx * r.chunks;
	*l = r;
	return 0;
}

int whit_logits_open(whit_logits *l, const char *path, whit_err *e) {
	whit_map map;
	memset(l, 0, sizeof *l);
	int rc = whit_map_open(&map, path, e);
	if (rc) return rc;
	if ((rc = whit_logits_parse(l, map.data, map.bytes, map.path, e)))
		whit_map_close(&map);
	else
		l->map = map;
	return rc;
}

void whit_logits_close(whit_logits *l) {
	if (l->map.path) whit_map_close(&l->map);
	memset(l, 0, sizeof *l);
}

int whit_logits_match(const whit_logits *l, const int32_t *ids, int64_t n, int64_t ctx, int64_t vocab, const char *text,
                      whit_err *e) {
	if (l->vocab != vocab)
		return whit_fail(e, WHIT_EFINGERPRINT, "%s: vocabulary is %lld, need the model's %lld", l->name,
		                 (long long)l->vocab, (long long)vocab);
	if (l->ctx != ctx)
		return whit_fail(e, WHIT_EFINGERPRINT, "%s: window is %lld tokens, need the %lld of --ctx", l->name,
		                 (long long)l->ctx, (long long)ctx);
	for (int64_t i = 0; i < WHIT_MIN(n, l->ctx * l->chunks); i++) {
		int32_t is = (int32_t)whit_load_u32(l->tokens + 4 * i);
		if (is != ids[i])
			return whit_fail(e, WHIT_EFINGERPRINT, "%s: token %lld is %d, need the %d of %s", l->name,
			                 (long long)i, is, ids[i], text);
	}
	if (l->chunks > n / ctx)
		return whit_fail(e, WHIT_EFINGERPRINT, "%s: holds %lld chunks, need at most the %lld of %s", l->name,
		                 (long long)l->chunks, (long long)(n / ctx), text);
	return 0;
}

int whit_logits_row(const whit_logits *l, int64_t i, float *out, whit_err *e) {
	const uint8_t *p = l->row + (size_t)i * l->row_bytes, *code = p + 8;
	float step = whit_load_f32(p), least = whit_load_f32(p + 4), most = step * 65535 + least;
	if (!(step >= 0) || !isfinite(least) || !(most <= above))
		return whit_fail(e, WHIT_ENONFINITE,
		                 "%s: chunk %lld, row %lld: ln P is %g and steps of %g, need at most 0", l->name,
		                 (long long)(i / l->rows), (long long)(i % l->rows), (double)least, (double)step);
	for (int64_t v = 0; v < l->vocab; v++) out[v] = step * (float)whit_load_u16(code + 2 * v) + least;
	return 0;
}

/* ---- writing ---- */

void whit_logits_pack(uint8_t *row, const float *logits, int64_t vocab) {
	float max = logits[0], min = logits[0];
	double sum = 0;
	for (int64_t v = 1; v < vocab; v++) {
		max = WHIT_MAX(max, logits[v]);
		min = WHIT_MIN(min, logits[v]);
	}
	for (int64_t v = 0; v < vocab; v++) sum += exp((double)logits[v] - max);
	min = WHIT_MAX(min, max - cut);
	float step = (max - min) / 65535, least = (float)((double)min - max - log(sum));
	double per = step > 0 ? 1 / (double)step : 0;
	memcpy(row, &step, 4);
	memcpy(row + 4, &least, 4);
	for (int64_t v = 0; v < vocab; v++) {
		uint16_t code = 0;
		if (logits[v] > min) code = (uint16_t)WHIT_MIN(65535, lrint(((double)logits[v] - min) * per));
		memcpy(row + 8 + 2 * v, &code, 2);
	}
	if (vocab % 2) memset(row + 8 + 2 * vocab, 0, 2);
}

int whit_logits_out_open(whit_logits_out *o, const char *path, int64_t ctx, int64_t vocab, int64_t chunks,
                         const int32_t *ids, whit_err *e) {
	const int32_t head[3] = {(int32_t)ctx, (int32_t)vocab, (int32_t)chunks};
	memset(o, 0, sizeof *o);
	if (ctx < LEAST_CTX || ctx > INT32_MAX || vocab > INT32_MAX || chunks < 1 || chunks > INT32_MAX)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: is to hold %lld chunks of %lld tokens, vocabulary %lld, need numbers of 32 bits",
		                 path, (long long)chunks, (long long)ctx, (long long)vocab);
	int rc = whit_out_open(&o->out, path, e);
	if (rc) return rc;
	o->vocab = vocab;
	o->left = chunks * rows_of(ctx);
	o->row_bytes = row_bytes(vocab);
	rc = whit_out_write(&o->out, magic, sizeof magic, e);
	if (!rc) rc = whit_out_write(&o->out, head, sizeof head, e);
	if (!rc) rc = whit_out_write(&o->out, ids, (size_t)(ctx * chunks) * sizeof *ids, e);
	if (rc) whit_logits_out_abort(o);
	return rc;
}

typedef struct pack_job {
	whit_logits_out *o;
	const float *logits;
} pack_job;

static void pack_item(void *ctx, int64_t i, int worker) {
	const pack_job *j = ctx;
	(void)worker;
	whit_logits_pack(j->o->buf + (size_t)i * j->o->row_bytes, j->logits + i * j->o->vocab, j->o->vocab);
}

int whit_logits_out_rows(whit_logits_out *o, const float *logits, int64_t n, whit_err *e) {
	if (n > o->left)
		return whit_fail(e, WHIT_EINTERNAL, "%s: gets %lld rows, need at most %lld", o->out.path, (long long)n,
		                 (long long)o->left);
	if (n > o->room) {
		whit_free(o->buf);
		o->buf = whit_alloc((size_t)n * o->row_bytes);
		o->room = n;
	}
	whit_parallel(n, pack_item, &(pack_job){o, logits});
	o->left -= n;
	return whit_out_write(&o->out, o->buf, (size_t)n * o->row_bytes, e);
}

int whit_logits_out_commit(whit_logits_out *o, whit_err *e) {
	int rc = o->left ? whit_fail(e, WHIT_EINTERNAL, "%s: lacks %lld rows", o->out.path, (long long)o->left) : 0;
	if (rc)
		whit_out_abort(&o->out);
	else
		rc = whit_out_commit(&o->out, e);
	whit_free(o->buf);
	memset(o, 0, sizeof *o);
	return rc;
}

void whit_logits_out_abort(whit_logits_out *o) {
	if (o->out.tmp) whit_out_abort(&o->out);
	whit_free(o->buf);
	memset(o, 0, sizeof *o);
}
