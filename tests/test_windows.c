/* windows: small cases worked out by hand, and properties over all small sizes. */
#include "eval/windows.h"
#include "tests/test.h"

static whit_err e;

static void expect(const whit_windows *ws, int64_t i, int64_t begin, int64_t end, int64_t first, int64_t last,
                   double weight) {
	if (!CHECK(i < ws->n)) return;
	const whit_window *w = &ws->w[i];
	CHECK_MSG(w->begin == begin && w->end == end && w->first == first && w->last == last && w->weight == weight,
	          "window %lld is [%lld, %lld) scoring [%lld, %lld) weight %g, need [%lld, %lld) [%lld, %lld) %g",
	          (long long)i, (long long)w->begin, (long long)w->end, (long long)w->first, (long long)w->last,
	          w->weight, (long long)begin, (long long)end, (long long)first, (long long)last, weight);
}

static void run_sliding(void) {
	whit_windows ws;
	/* 11 tokens, L 4, S 2: [0,4) scores targets 1-3, then two new ones each, last window one: 10 = N - 1. */
	CHECK_RC(whit_windows_make(&ws, WHIT_SLIDING, 11, 4, 2, 1, &e), e);
	CHECK_INT(ws.n, 5);
	CHECK_INT(ws.scored, 10);
	CHECK_INT(ws.fed, 4 * 4 + 3);
	CHECK_INT(ws.bos_replaces_first, 0);
	expect(&ws, 0, 0, 4, 0, 3, 3);
	expect(&ws, 1, 2, 6, 3, 5, 2);
	expect(&ws, 3, 6, 10, 7, 9, 2);
	expect(&ws, 4, 8, 11, 9, 10, 1);
	whit_windows_free(&ws);
	/* The text is shorter than the window. */
	CHECK_RC(whit_windows_make(&ws, WHIT_SLIDING, 3, 8, 4, 0, &e), e);
	CHECK_INT(ws.n, 1);
	expect(&ws, 0, 0, 3, 0, 2, 2);
	whit_windows_free(&ws);
	/* S = L loses each window's first token; the last window's only token cannot be scored at all. */
	CHECK_RC(whit_windows_make(&ws, WHIT_SLIDING, 9, 4, 4, 0, &e), e);
	CHECK_INT(ws.n, 2);
	CHECK_INT(ws.scored, 6);
	expect(&ws, 1, 4, 8, 4, 7, 3);
	whit_windows_free(&ws);
}

static void run_sliding_hf(void) {
	whit_windows ws;
	/* As above, but each window weighs its labels less one: 3 1 1 1 0, together N - windows = 6. */
	CHECK_RC(whit_windows_make(&ws, WHIT_SLIDING_HF, 11, 4, 2, 0, &e), e);
	CHECK_INT(ws.n, 5);
	expect(&ws, 0, 0, 4, 0, 3, 3);
	expect(&ws, 1, 2, 6, 3, 5, 1);
	expect(&ws, 4, 8, 11, 9, 10, 0);
	whit_windows_free(&ws);
	/* The documentation's example: L 1024, S 512 on N 287,644 tokens of GPT-2's WikiText-2: 561 windows. */
	CHECK_RC(whit_windows_make(&ws, WHIT_SLIDING_HF, 287644, 1024, 512, 0, &e), e);
	double weight = 0;
	for (int64_t i = 0; i < ws.n; i++) weight += ws.w[i].weight;
	CHECK_INT(ws.n, 561);
	CHECK_NEAR(weight, 287644 - 561, 0);
	CHECK_INT(ws.scored, 287643);
	whit_windows_free(&ws);
}

static void run_chunked(void) {
	whit_windows ws;
	CHECK_RC(whit_windows_make(&ws, WHIT_CHUNKED, 400659, 512, 77, 1, &e), e);
	CHECK_INT(ws.n, 782);
	CHECK_INT(ws.scored, 782 * 255);
	CHECK_INT(ws.bos_replaces_first, 1);
	expect(&ws, 1, 512, 1024, 512 + 256, 1023, 255);
	whit_windows_free(&ws);
	CHECK_RC(whit_windows_make(&ws, WHIT_CHUNKED, 10, 5, 0, 0, &e), e);
	CHECK_INT(ws.n, 2);
	expect(&ws, 0, 0, 5, 2, 4, 2);
	CHECK_INT(ws.bos_replaces_first, 0);
	whit_windows_free(&ws);
}

/* Every size up to 40: what the modes promise, checked token by token. */
static void run_properties(void) {
	for (int64_t N = 2; N <= 40; N++)
		for (int64_t L = 2; L <= 20; L++)
			for (int64_t S = 1; S <= L; S++) {
				for (int mode = WHIT_SLIDING; mode <= WHIT_SLIDING_HF; mode++) {
					int count[41] = {0}, bad = 0;
					int64_t windows = 0, end = 0;
					double weight = 0;
					whit_windows ws;
					for (int64_t b = 0; end < N; b += S, windows++)
						end = WHIT_MIN(b + L, N); /* as the script counts */
					if (whit_windows_make(&ws, mode, N, L, S, 0, &e)) {
						CHECK_MSG(0, "%s", e.text);
						continue;
					}
					for (int64_t i = 0; i < ws.n; i++) {
						const whit_window *w = &ws.w[i];
						bad |= w->begin % S || w->end - w->begin > L || w->end > N ||
						       w->first < w->begin || w->last >= w->end;
						for (int64_t t = w->first; t < w->last; t++) count[t + 1]++;
						weight += w->weight;
					}
					int64_t scored = 0;
					for (int64_t t = 1; t < N; t++) {
						bad |= count[t] != (S < L || t % L != 0);
						scored += count[t];
					}
					bad |= count[0] || scored != ws.scored;
					bad |= weight !=
					       (mode == WHIT_SLIDING_HF ? (double)(N - windows) : (double)scored);
					CHECK_MSG(!bad, "mode %d, N %lld, L %lld, S %lld", mode, (long long)N,
					          (long long)L, (long long)S);
					whit_windows_free(&ws);
				}
			}
}

static void run_errors(void) {
	whit_windows ws;
	CHECK_FAILS(whit_windows_make(&ws, WHIT_SLIDING, 1, 4, 2, 0, &e), WHIT_EINPUT, e,
	            "text is 1 tokens, need at least 2");
	CHECK_FAILS(whit_windows_make(&ws, WHIT_SLIDING, 0, 4, 2, 0, &e), WHIT_EINPUT, e, "text is 0");
	CHECK_FAILS(whit_windows_make(&ws, WHIT_SLIDING, 10, 4, 0, 0, &e), WHIT_EUSAGE, e, "stride is 0");
	CHECK_FAILS(whit_windows_make(&ws, WHIT_SLIDING, 10, 4, 5, 0, &e), WHIT_EUSAGE, e, "stride is 5");
	CHECK_FAILS(whit_windows_make(&ws, WHIT_SLIDING, 10, 1, 1, 0, &e), WHIT_EUSAGE, e, "context is 1");
	CHECK_FAILS(whit_windows_make(&ws, WHIT_CHUNKED, 10, 2, 1, 0, &e), WHIT_EUSAGE, e, "context is 2");
	CHECK_FAILS(whit_windows_make(&ws, WHIT_CHUNKED, 1023, 512, 0, 0, &e), WHIT_EINPUT, e,
	            "is 1023 tokens, need at least 1024");
	CHECK_INT(whit_eval_mode_parse("chunked"), WHIT_CHUNKED);
	CHECK_INT(whit_eval_mode_parse("sliding_hf"), WHIT_SLIDING_HF);
	CHECK_INT(whit_eval_mode_parse("strided"), -1);
	CHECK_TEXT(whit_eval_mode_name(WHIT_SLIDING), "sliding");
}

TEST_MAIN(run_sliding, run_sliding_hf, run_chunked, run_properties, run_errors)
