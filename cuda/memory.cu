/* memory: what is allocated on a device, counted and limited, and its scratch. The same under emulation; the runtime's
 * own calls are dev.cu's, or tests/emu/dev.cpp's. */
#include "cuda/dev.cuh"
#include <stdio.h>
#include <stdlib.h>

struct whit_dev_piece {
	void *p;
	size_t bytes;
};

struct whit_dev_kept {
	whit_hash hash;
	size_t bytes;
	void *p;
};

enum { ALIGN = 256 };
static constexpr size_t LEAST = 4 << 20; /* of a piece of scratch: not one for every row */

static size_t rounded(size_t bytes) { return (WHIT_MAX(bytes, 1) + ALIGN - 1) / ALIGN * ALIGN; }

void whit_dev_memory_free(whit_dev *d) {
	for (int i = 0; i < d->scratches; i++) whit_dev_free(d, d->scratch[i].p);
	for (size_t i = 0; i < d->n_kept; i++) whit_dev_free(d, d->kept[i].p);
	whit_dev_free(d, d->counters);
	whit_free(d->kept);
	whit_free(d->tuned);
	whit_free(d->pieces);
}

unsigned *whit_dev_counters(whit_dev *d) {
	size_t bytes = 2 * (size_t)d->sms * sizeof *d->counters;
	if (!d->counters && (d->counters = (unsigned *)whit_dev_alloc(d, bytes))) whit_dev_zero(d, d->counters, bytes);
	return d->counters;
}

extern "C" {

void whit_dev_fail(whit_dev *d, int code, const char *fmt, ...) {
	va_list ap;
	if (d->err.code) return;
	va_start(ap, fmt);
	vsnprintf(d->err.text, sizeof d->err.text, fmt, ap);
	va_end(ap);
	d->err.code = code;
}

int whit_dev_failed(const whit_dev *d) { return d->err.code; }

int whit_dev_plain(whit_dev *d, int plain) {
	int was = d->plain;
	d->plain = plain;
	return was;
}

int whit_dev_terms(whit_dev *d, int terms) {
	int was = d->terms;
	if (terms) d->terms = terms;
	return was;
}

int64_t whit_dev_factors_from(whit_dev *d, int64_t n) {
	int64_t was = d->factors_from;
	if (n) d->factors_from = n;
	return was;
}

void whit_dev_limit(whit_dev *d, size_t bytes) { d->limit = bytes; }
size_t whit_dev_used(const whit_dev *d) { return d->used; }
size_t whit_dev_peak(const whit_dev *d) { return d->peak; }

size_t whit_dev_left(whit_dev *d) {
	size_t left = whit_dev_raw_left(d), own = d->limit > d->used ? d->limit - d->used : 0;
	return d->limit ? WHIT_MIN(left, own) : left;
}

void *whit_dev_alloc(whit_dev *d, size_t bytes) {
	if (d->err.code) return NULL;
	size_t asked = WHIT_MAX(bytes, (size_t)1); /* the emulator guards the byte behind it */
	bytes = rounded(bytes);
	bool over = d->limit && d->used + bytes > d->limit;
	void *p = over ? NULL : whit_dev_raw_alloc(d, asked);
	if (!p) {
		if (over)
			whit_dev_fail(d, WHIT_ERESOURCE,
			              "device memory: is %zu bytes by --vram, of which %zu are used, need %zu more",
			              d->limit, d->used, bytes);
		else
			whit_dev_fail(d, WHIT_ERESOURCE,
			              "device memory: is %zu bytes free (used here: %zu), need %zu more",
			              whit_dev_raw_left(d), d->used, bytes);
		return NULL;
	}
	if (d->n_pieces == d->room_pieces) {
		size_t room = WHIT_MAX(2 * d->room_pieces, 64);
		d->pieces = (whit_dev_piece *)whit_realloc(d->pieces, d->room_pieces * sizeof *d->pieces,
		                                           room * sizeof *d->pieces);
		d->room_pieces = room;
	}
	d->pieces[d->n_pieces++] = {p, bytes};
	d->used += bytes;
	d->peak = WHIT_MAX(d->peak, d->used);
	return p;
}

void whit_dev_free(whit_dev *d, void *p) {
	for (size_t i = d->n_pieces; p && i-- > 0;) {
		if (d->pieces[i].p != p) continue;
		whit_dev_raw_free(d, p);
		d->used -= d->pieces[i].bytes;
		d->pieces[i] = d->pieces[--d->n_pieces];
		return;
	}
	if (p) whit_dev_fail(d, WHIT_EINTERNAL, "device memory: %p is no device buffer", p);
}

void *whit_dev_take(whit_dev *d, size_t bytes) {
	bytes = rounded(bytes);
	if (d->err.code) return NULL;
	for (int i = 0; i < d->scratches; i++) {
		auto *s = &d->scratch[i];
		if (s->bytes - s->used < bytes) continue;
		s->used += bytes;
		return s->p + s->used - bytes;
	}
	if (d->scratches == WHIT_DEV_PIECES) {
		whit_dev_fail(d, WHIT_EINTERNAL, "device scratch: is %d pieces, need at most that", WHIT_DEV_PIECES);
		return NULL;
	}
	size_t size = WHIT_MAX(bytes, LEAST);
	if (d->limit && size > whit_dev_left(d)) size = bytes;
	uint8_t *p = (uint8_t *)whit_dev_alloc(d, size);
	if (!p) return NULL;
	auto *s = &d->scratch[d->scratches++];
	s->p = p, s->bytes = size, s->used = bytes;
	return p;
}

/* Pieces stay where they are: a graph may name them. */
void whit_dev_reset(whit_dev *d) {
	for (int i = 0; i < d->scratches; i++) d->scratch[i].used = 0;
}

const void *whit_dev_keep(whit_dev *d, whit_hash hash, const void *src, size_t bytes) {
	if (d->err.code) return NULL;
	for (size_t i = 0; i < d->n_kept; i++) {
		const auto *k = &d->kept[i];
		if (k->hash.hi == hash.hi && k->hash.lo == hash.lo && k->bytes == bytes) return k->p;
	}
	void *p = whit_dev_alloc(d, bytes);
	if (!p) return NULL;
	whit_dev_put(d, p, src, bytes);
	d->kept =
	        (whit_dev_kept *)whit_realloc(d->kept, d->n_kept * sizeof *d->kept, (d->n_kept + 1) * sizeof *d->kept);
	d->kept[d->n_kept++] = {hash, bytes, p};
	return p;
}
}
