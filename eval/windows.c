/* windows: the three ways of cutting a text that the field uses. */
#include "eval/windows.h"

static const char *const mode_names[WHIT_EVAL_MODES] = {"sliding", "sliding_hf", "chunked"};

int whit_eval_mode_parse(const char *name) {
	for (int i = 0; i < WHIT_EVAL_MODES; i++)
		if (!strcmp(name, mode_names[i])) return i;
	return -1;
}

const char *whit_eval_mode_name(int mode) { return mode_names[mode]; }

static void add(whit_windows *ws, whit_window w) {
	if (w.first >= w.last) return;
	ws->scored += w.last - w.first;
	ws->fed += w.end - w.begin;
	ws->w[ws->n++] = w;
}

/* Windows at 0, S, 2S ..., each scoring the targets from where the last one ended. The script weights a window by
 * its labels less one, and at S = L, or a last window of one label, that is also what it scores. */
static void slide(whit_windows *ws, enum whit_eval_mode mode, int64_t N, int64_t L, int64_t S) {
	for (int64_t begin = 0, done = 0; done < N; begin += S) {
		int64_t end = WHIT_MIN(begin + L, N), target = WHIT_MAX(done, begin + 1);
		whit_window w = {begin, end, target - 1, end - 1, (double)(end - target)};
		if (mode == WHIT_SLIDING_HF) w.weight = (double)(end - done - 1);
		add(ws, w);
		done = end;
	}
}

/* Disjoint chunks, second half scored, tail dropped. */
static void chunk(whit_windows *ws, int64_t N, int64_t L) {
	for (int64_t c = 0; c < N / L; c++) {
		int64_t b = c * L;
		add(ws, (whit_window){b, b + L, b + L / 2, b + L - 1, (double)(L - 1 - L / 2)});
	}
}

int whit_windows_make(whit_windows *ws, enum whit_eval_mode mode, int64_t N, int64_t L, int64_t S, int adds_bos,
                      whit_err *e) {
	int64_t least = mode == WHIT_CHUNKED ? 3 : 2;
	memset(ws, 0, sizeof(*ws));
	if (L < least)
		return whit_fail(e, WHIT_EUSAGE, "context is %lld tokens, need at least %lld for mode %s", (long long)L,
		                 (long long)least, mode_names[mode]);
	if (mode != WHIT_CHUNKED && (S < 1 || S > L))
		return whit_fail(e, WHIT_EUSAGE, "stride is %lld, need 1 to the context's %lld", (long long)S,
		                 (long long)L);
	if (mode == WHIT_CHUNKED && N / 2 < L)
		return whit_fail(e, WHIT_EINPUT, "text is %lld tokens, need at least %lld (two chunks of %lld)",
		                 (long long)N, 2 * (long long)L, (long long)L);
	if (N < 2) return whit_fail(e, WHIT_EINPUT, "text is %lld tokens, need at least 2", (long long)N);

	ws->bos_replaces_first = mode == WHIT_CHUNKED && adds_bos;
	ws->w = whit_alloc((size_t)(mode == WHIT_CHUNKED ? N / L : N / S + 1) * sizeof(*ws->w));
	if (mode == WHIT_CHUNKED)
		chunk(ws, N, L);
	else
		slide(ws, mode, N, L, S);
	return 0;
}

void whit_windows_free(whit_windows *ws) {
	whit_free(ws->w);
	memset(ws, 0, sizeof(*ws));
}
