/* emu: fibers, their scheduler, rendezvous of threads, shared and device memory. */
#include "tests/emu/emu.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>
#if !defined(__x86_64__) || defined(WHIT_EMU_UCONTEXT)
#define EMU_UCONTEXT 1
#include <ucontext.h>
#else
#define EMU_UCONTEXT 0
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#endif
#ifdef EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emu {

schedule now = {FORWARD, 0, false, false};

namespace {

enum {
	GUARD = 256,              /* bytes on either side of a device allocation, and after each shared array */
	SHARED_STATIC = 48 << 10, /* what hardware allows without asking */
	SHARED_MOST = 227 << 10,  /* sm_90 */
	ARRAYS = 64,              /* shared arrays of a block */
	BARRIERS = 16,
	STUCK = 20000000 /* switches without any progress */
};
#ifdef EMU_ASAN
const size_t STACK = 256 << 10, END = 16 << 10; /* instrumented frames are several times larger */
#else
const size_t STACK = 64 << 10;
#endif

enum state { READY, AT_BARRIER, AT_COLLECT, AT_GRID, GONE };

struct copy {
	uint8_t *dst;
	const uint8_t *src;
	int bytes, src_bytes;
};

struct block_state;
struct fiber {
	state st;
	uint3 thread;
	block_state *block;
	unsigned index, linear, lane; /* in the launch, in the block, in the warp */
	const char *op, *file;
	int line, barrier;
	uint32_t mask;
	collect_fn fn;
	void *arg;
	std::vector<std::vector<copy>> groups; /* cp.async, the last one not committed yet */
	uint8_t *stack;
#if EMU_UCONTEXT
	ucontext_t context;
#else
	void *sp;
#endif
#ifdef EMU_ASAN
	void *fake;
#endif
};

struct barrier_state {
	uint32_t arrived[32]; /* lanes by warp */
	int threads;          /* as the first arrival said */
	const char *op, *file;
	int line;
};

struct shared_array {
	void *key;
	const char *name;
	size_t at, bytes;
};

struct block_state {
	uint3 index;
	unsigned first, alive; /* its fibers */
	uint32_t live[32];     /* lanes by warp */
	barrier_state barriers[BARRIERS];
	uint8_t *memory; /* SHARED_MOST and room for guards */
	size_t used;
	std::vector<shared_array> arrays; /* the dynamic one has key NULL */
	int count, any, all;              /* barrier_vote: votes coming in */
	int count_out, any_out, all_out;  /* and the last result */
};

/* A message by value: what a fault leaves behind on a stack must not own memory. */
struct message {
	char s[800];
};

/* What runs. Stacks and shared memory outlive launches: making them costs more than a small kernel. */
struct launch_state {
	launch l;
	unsigned threads, per_block, alive;
	std::vector<fiber> fibers;
	std::vector<block_state> blocks;
	std::vector<uint64_t> ready; /* bits */
	fiber *current;
	uint64_t rng;
	unsigned focus; /* of SPRINT */
	int stuck;
	bool failed, running;
	message report;
	uint8_t *stacks;
	unsigned stack_count;
#if EMU_UCONTEXT
	ucontext_t main;
#else
	void *main;
#endif
#ifdef EMU_ASAN
	void *main_fake;
	void *main_stack;
	size_t main_size;
#endif
};
launch_state &g = *new launch_state(); /* never destroyed */

uint64_t random_next() { /* xorshift64* */
	g.rng ^= g.rng >> 12, g.rng ^= g.rng << 25, g.rng ^= g.rng >> 27;
	return g.rng * UINT64_C(2685821657736338717);
}

message format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
message format(const char *fmt, ...) {
	message m;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(m.s, sizeof m.s, fmt, ap);
	va_end(ap);
	return m;
}

/* ---- guards: NaN whatever the width it is read at, unlike any poison ---- */

uint8_t guard_byte(size_t i) { return i % 2 ? 0xff : 0xa5; }
void guard_put(uint8_t *p) {
	for (size_t i = 0; i < GUARD; i++) p[i] = guard_byte(i);
}
/* Index of the first damaged byte, from the side that the array is on, or -1. */
int guard_damage(const uint8_t *p) {
	for (size_t i = 0; i < GUARD; i++)
		if (p[i] != guard_byte(i)) return (int)i;
	return -1;
}

/* ---- switching stacks ---- */

void fiber_main();

#if EMU_UCONTEXT
void stack_start(fiber *f) {
	getcontext(&f->context);
	f->context.uc_stack.ss_sp = f->stack;
	f->context.uc_stack.ss_size = STACK;
	f->context.uc_link = nullptr;
	makecontext(&f->context, fiber_main, 0);
}
#define SWAP(from, to) swapcontext(&(from), &(to))
#else
extern "C" void whit_emu_swap(void **save, void *to);
asm(".text\n"
    ".p2align 4\n"
    ".type whit_emu_swap,@function\n"
    "whit_emu_swap:\n"
    "	pushq %rbp\n	pushq %rbx\n	pushq %r12\n	pushq %r13\n	pushq %r14\n	pushq %r15\n"
    "	movq %rsp, (%rdi)\n"
    "	movq %rsi, %rsp\n"
    "	popq %r15\n	popq %r14\n	popq %r13\n	popq %r12\n	popq %rbx\n	popq %rbp\n"
    "	ret\n"
    ".size whit_emu_swap,.-whit_emu_swap\n");
void stack_start(fiber *f) {
	void **sp = (void **)(f->stack + STACK - 64); /* 16-byte aligned, so that rsp % 16 is 8 after the ret */
	*--sp = nullptr;
	*--sp = (void *)fiber_main;
	for (int i = 0; i < 6; i++) *--sp = nullptr;
	f->sp = sp;
}
#define SWAP(from, to) whit_emu_swap(&(from), to)
#endif

#if EMU_UCONTEXT
#define PLACE context
#else
#define PLACE sp
#endif

void resume(fiber *f) {
	g.current = f;
	threadIdx = f->thread;
	blockIdx = f->block->index;
}

/* From a fiber to another, or (NULL) back to run(). `from` may never come back: then last is true. */
void fiber_switch(fiber *from, fiber *to, bool last) {
	if (to) resume(to);
#ifdef EMU_ASAN
	if (to)
		__sanitizer_start_switch_fiber(last ? nullptr : &from->fake, to->stack, STACK);
	else
		__sanitizer_start_switch_fiber(last ? nullptr : &from->fake, g.main_stack, g.main_size);
#else
	(void)last;
#endif
	if (to)
		SWAP(from->PLACE, to->PLACE);
	else
		SWAP(from->PLACE, g.main);
#ifdef EMU_ASAN
	__sanitizer_finish_switch_fiber(from->fake, nullptr, nullptr);
#endif
}

void main_switch(fiber *to) {
	resume(to);
#ifdef EMU_ASAN
	if (!g.main_stack) {
		pthread_attr_t a;
		pthread_getattr_np(pthread_self(), &a);
		pthread_attr_getstack(&a, &g.main_stack, &g.main_size);
		pthread_attr_destroy(&a);
	}
	__sanitizer_start_switch_fiber(&g.main_fake, to->stack, STACK);
#endif
	SWAP(g.main, to->PLACE);
#ifdef EMU_ASAN
	__sanitizer_finish_switch_fiber(g.main_fake, nullptr, nullptr);
#endif
}

void stacks_need(unsigned n) {
	size_t page = (size_t)sysconf(_SC_PAGESIZE), each = STACK + page; /* the page below a stack stays closed */
	if (n <= g.stack_count) return;
	if (g.stacks) munmap(g.stacks, g.stack_count * each);
	g.stacks = (uint8_t *)mmap(nullptr, n * each, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	g.stack_count = n;
	if (g.stacks == MAP_FAILED) abort();
	for (unsigned i = 0; i < n; i++)
		if (mprotect(g.stacks + i * each + page, STACK, PROT_READ | PROT_WRITE)) abort();
}

/* ---- the scheduler ---- */

void ready_set(fiber *f, bool on) {
	uint64_t bit = UINT64_C(1) << f->index % 64;
	if (on)
		g.ready[f->index / 64] |= bit, f->st = READY;
	else
		g.ready[f->index / 64] &= ~bit;
}

/* The first ready fiber at or after i, going round. */
fiber *ready_from(unsigned i) {
	size_t words = g.ready.size(), w = i / 64;
	uint64_t bits = g.ready[w] & ~UINT64_C(0) << i % 64;
	for (size_t k = 0; k <= words; k++, bits = g.ready[w = (w + 1) % words])
		if (bits) return &g.fibers[w * 64 + (unsigned)__builtin_ctzll(bits)];
	return nullptr;
}

/* The last ready fiber at or before i, going round. */
fiber *ready_before(unsigned i) {
	size_t words = g.ready.size(), w = i / 64;
	uint64_t bits = g.ready[w] & ~UINT64_C(0) >> (63 - i % 64);
	for (size_t k = 0; k <= words; k++, bits = g.ready[w = (w + words - 1) % words])
		if (bits) return &g.fibers[w * 64 + 63 - (unsigned)__builtin_clzll(bits)];
	return nullptr;
}

fiber *pick(unsigned i) {
	unsigned n = g.threads;
	if (now.by == FORWARD) return ready_from((i + 1) % n);
	if (now.by == REVERSE) return ready_before((i + n - 1) % n);
	uint64_t r = random_next() >> 16;
	if (now.by == SPRINT) {
		if (r % 512 == 0) g.focus = (unsigned)(r >> 16) % n;
		return ready_from(g.focus % n);
	}
	return ready_from((unsigned)(r >> 16) % n);
}

message thread_text(const fiber *f) {
	if (blockDim.y * blockDim.z == 1) return format("%u", f->thread.x);
	return format("(%u, %u, %u)", f->thread.x, f->thread.y, f->thread.z);
}

message where(const fiber *f) {
	if (f->st == GONE) return format("exited");
	if (f->st == AT_COLLECT) return format("%s at %s:%d mask %08x", f->op, f->file, f->line, f->mask);
	if (f->st == AT_BARRIER && f->barrier)
		return format("%s at %s:%d barrier %d", f->op, f->file, f->line, f->barrier);
	return format("%s at %s:%d", f->op, f->file, f->line);
}

bool together(const fiber *a, const fiber *b) {
	return a->block == b->block && a->st == b->st && (a->st == GONE || !strcmp(where(a).s, where(b).s));
}

/* Each stretch of threads that stand at one place, as far as there is room. */
message standing() {
	message m;
	size_t at = 0;
	for (unsigned i = 0; i < g.threads && at + 1 < sizeof m.s;) {
		unsigned j = i + 1;
		const fiber *a = &g.fibers[i];
		while (j < g.threads && together(a, &g.fibers[j])) j++;
		message to = j > i + 1 ? format(" to %s", thread_text(&g.fibers[j - 1]).s) : format("%s", "");
		message of = g.threads > g.per_block ? format(" of block %u", a->block->index.x) : format("%s", "");
		at += (size_t)snprintf(m.s + at, sizeof m.s - at, "; thread %s%s%s: %s", thread_text(a).s, to.s, of.s,
		                       where(a).s);
		i = j;
	}
	return m;
}

void leave() { /* for good: the launch has failed */
	fiber *f = g.current;
	fiber_switch(f, nullptr, true);
	abort();
}

/* Gives the processor to another fiber; comes back when this one is picked again. */
void reschedule(bool last = false) {
	fiber *from = g.current, *to = pick(from->index);
	if (!to) {
		if (g.alive) {
			g.failed = true;
			g.report = format("deadlock%s", standing().s);
		}
		fiber_switch(from, nullptr, last || g.failed);
		abort();
	}
	if (to != from) fiber_switch(from, to, last);
}

/* ---- rendezvous ---- */

void barrier_release(block_state *b, int id) {
	b->count_out = b->count, b->any_out = b->any, b->all_out = b->all;
	if (!id) b->count = b->any = 0, b->all = 1;
	b->barriers[id] = barrier_state();
	for (unsigned i = b->first; i < b->first + g.per_block; i++)
		if (g.fibers[i].st == AT_BARRIER && g.fibers[i].barrier == id) ready_set(&g.fibers[i], true);
	g.stuck = 0;
}

/* A warp has come when all its living lanes have; hardware counts it as 32 threads even where it is partial. */
void barrier_try(block_state *b, int id) {
	barrier_state *s = &b->barriers[id];
	if (!s->op) return;
	int came = 0;
	bool all = true;
	for (int w = 0; w < 32; w++) {
		bool full = s->arrived[w] && (s->arrived[w] & b->live[w]) == b->live[w];
		came += full, all = all && (full || !b->live[w]);
	}
	if (s->threads ? 32 * came >= s->threads : all) barrier_release(b, id);
}

/* Whether every living lane of f's mask has come; a lane that waits for this one elsewhere is an error. */
bool collect_try(fiber *f) {
	block_state *b = f->block;
	fiber *warp = f - f->lane;
	uint32_t want = f->mask & b->live[f->linear / 32];
	void *arg[32] = {};
	for (unsigned i = 0; i < 32; i++) {
		if (!(want >> i & 1)) continue;
		const fiber *o = &warp[i];
		if (o->st != AT_COLLECT) return false;
		bool same =
		        o->mask == f->mask && o->line == f->line && !strcmp(o->op, f->op) && !strcmp(o->file, f->file);
		if (!same && (o->mask >> f->lane & 1))
			fault("divergent: lane %u waits in %s, lane %u in %s", i, where(o).s, f->lane, where(f).s);
		if (!same) return false;
		arg[i] = o->arg;
	}
	if (f->fn) f->fn(want, arg);
	for (unsigned i = 0; i < 32; i++)
		if (want >> i & 1) ready_set(&warp[i], true);
	g.stuck = 0;
	return true;
}

void grid_try() {
	unsigned came = 0;
	for (fiber &f : g.fibers) came += f.st == AT_GRID;
	if (!came || came != g.alive) return;
	for (fiber &f : g.fibers)
		if (f.st == AT_GRID) ready_set(&f, true);
	g.stuck = 0;
}

/* A thread's end may complete what others wait for. */
void fiber_exit() {
	fiber *f = g.current;
	block_state *b = f->block;
	f->st = GONE;
	ready_set(f, false);
	f->groups.clear();
	b->live[f->linear / 32] &= ~(1u << f->lane);
	b->alive--, g.alive--, g.stuck = 0;
	for (int i = 0; i < BARRIERS && b->alive; i++) barrier_try(b, i);
	fiber *warp = f - f->lane;
	for (unsigned i = 0; i < 32 && b->live[f->linear / 32] >> i; i++)
		if (b->live[f->linear / 32] >> i & 1 && warp[i].st == AT_COLLECT) collect_try(&warp[i]);
	if (g.l.cooperative) grid_try();
	reschedule(true);
}

void fiber_main() {
#ifdef EMU_ASAN
	__sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
	g.l.body(g.l.ctx);
	fiber_exit();
	abort();
}

/* ---- a block's shared memory ---- */

uint8_t *shared_take(block_state *b, void *key, size_t bytes, size_t align, const char *name) {
	size_t at = b->used; /* odd multiples of align: a cast to something wider is then misaligned */
	while ((at & (2 * align - 1)) != align % (2 * align)) at++;
	size_t all = 0, fixed = 0;
	for (const shared_array &a : b->arrays) all += a.bytes, fixed += a.key ? a.bytes : 0;
	if (key && fixed + bytes > SHARED_STATIC)
		fault("shared array %s: static shared memory is %zu bytes, the limit is %d", name, fixed + bytes,
		      SHARED_STATIC);
	if (all + bytes > shared_limit)
		fault("shared array %s: shared memory is %zu bytes, the limit is %zu", name, all + bytes, shared_limit);
	if (b->arrays.size() == ARRAYS || align > 128)
		fault("shared array %s: one too many, or aligned to %zu", name, align);
	b->used = at + bytes + GUARD;
	b->arrays.push_back({key, name, at, bytes});
	poison(b->memory + at, bytes);
	guard_put(b->memory + at + bytes);
	return b->memory + at;
}

void block_check(block_state *b) {
	if (guard_damage(b->memory) >= 0) {
		g.failed = true;
		g.report = format("block %u: write before the first shared array", b->index.x);
	}
	for (const shared_array &a : b->arrays) {
		int i = guard_damage(b->memory + a.at + a.bytes);
		if (i < 0 || g.failed) continue;
		g.failed = true;
		g.report =
		        format("block (%u, %u, %u): out-of-bounds write %d bytes past the end of shared array %s (%zu "
		               "bytes)",
		               b->index.x, b->index.y, b->index.z, i, a.name, a.bytes);
	}
}

/* ---- one launch ---- */

void block_start(block_state *b, uint3 index, unsigned first) {
	uint8_t *memory = b->memory;
	*b = block_state();
	b->index = index, b->first = first, b->alive = g.per_block, b->all = 1;
	if (!memory) {
		memory = (uint8_t *)aligned_alloc(256, SHARED_MOST + ARRAYS * (GUARD + 256));
		if (!memory) abort();
	}
	b->memory = memory;
	guard_put(memory);
	b->used = GUARD;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	for (unsigned i = 0; i < g.per_block; i++) {
		fiber *f = &g.fibers[first + i];
		f->block = b;
		f->index = first + i, f->linear = i, f->lane = i % 32;
		f->thread = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
		f->op = f->file = "", f->line = 0;
		f->groups.clear();
		f->groups.emplace_back();
		f->stack = g.stacks + f->index * (STACK + page) + page;
		b->live[i / 32] |= 1u << i % 32;
#ifdef EMU_ASAN
		/* the last fiber here ended in a function that never returned, which left that function's red zones */
		__asan_unpoison_memory_region(f->stack + STACK - END, END);
#endif
		stack_start(f);
		ready_set(f, true);
	}
}

void blocks_run(const std::vector<uint64_t> &order, size_t from, size_t n) {
	g.alive = g.threads = (unsigned)n * g.per_block;
	for (size_t i = 0; i < n; i++) {
		uint64_t k = order[from + i];
		uint3 at = {(unsigned)(k % gridDim.x), (unsigned)(k / gridDim.x % gridDim.y),
		            (unsigned)(k / gridDim.x / gridDim.y)};
		block_start(&g.blocks[i], at, (unsigned)i * g.per_block);
	}
	g.stuck = 0;
	main_switch(pick(now.by == FORWARD ? g.threads - 1 : 0));
	for (size_t i = 0; i < n && !g.failed; i++) block_check(&g.blocks[i]);
}

message bad_shape(const launch &l) {
	uint64_t threads = (uint64_t)l.block.x * l.block.y * l.block.z;
	if (!threads || threads > 1024 || l.block.z > 64)
		return format("%llu threads in a block, need 1 to 1024", (unsigned long long)threads);
	if (!l.grid.x || !l.grid.y || !l.grid.z || l.grid.x > 2147483647u || l.grid.y > 65535 || l.grid.z > 65535)
		return format("grid %u x %u x %u, need 1 to 2147483647 x 65535 x 65535", l.grid.x, l.grid.y, l.grid.z);
	if (l.smem > shared_limit) return format("%zu bytes of shared memory, the limit is %zu", l.smem, shared_limit);
	if (l.cooperative && (uint64_t)l.grid.x * l.grid.y * l.grid.z > 64)
		return format("more than 64 blocks at once");
	return format("%s", "");
}

} // namespace

/* ---- what tests and dev.cpp call ---- */

schedule schedule_number(int i) {
	schedule s = {i == 0   ? FORWARD
	              : i == 1 ? REVERSE
	              : i % 3  ? RANDOM
	                       : SPRINT,
	              (uint64_t)i, i % 2 == 1, i / 2 % 2 == 1};
	return s;
}

void describe(char *out, size_t size) {
	static const char *const names[] = {"forward", "reverse", "random", "sprint"};
	char by[40] = "";
	if (now.by >= RANDOM) snprintf(by, sizeof by, " seed %llu", (unsigned long long)now.seed);
	snprintf(out, size, "%s%s, cp.async %s, poison %d", names[now.by], by, now.lazy ? "lazy" : "eager", now.odd);
}

int run(const launch &l, char *text, size_t size) {
	device_reach all;
	if (g.running) abort(); /* a launch from inside a kernel */
	g.l = l;
	g.failed = false, g.running = true;
	g.report = bad_shape(l);
	g.failed = g.report.s[0] != 0;
	gridDim = l.grid, blockDim = l.block;
	g.per_block = l.block.x * l.block.y * l.block.z;
	g.rng = (now.seed + 1) * UINT64_C(0x9e3779b97f4a7c15);
	g.focus = (unsigned)(random_next() >> 32);
	if (!g.failed) {
		size_t blocks = (size_t)l.grid.x * l.grid.y * l.grid.z, at_once = l.cooperative ? blocks : 1;
		std::vector<uint64_t> order(blocks);
		for (size_t i = 0; i < blocks; i++) order[i] = now.by == REVERSE ? blocks - 1 - i : i;
		for (size_t i = blocks - 1; now.by >= RANDOM && i > 0; i--)
			std::swap(order[i], order[random_next() % (i + 1)]);
		stacks_need((unsigned)at_once * g.per_block);
		g.fibers.resize(at_once * g.per_block);
		if (g.blocks.size() < at_once) g.blocks.resize(at_once);
		g.ready.assign((g.fibers.size() + 63) / 64, 0);
		for (size_t i = 0; i < blocks && !g.failed; i += at_once) blocks_run(order, i, at_once);
	}
	g.running = false;
	if (!g.failed) {
		char damage[300];
		if (!device_check(damage, sizeof damage)) return 0;
		g.report = format("%s", damage);
	}
#ifdef EMU_ASAN
	/* fibers that never came back left their frames' red zones */
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	for (unsigned i = 0; i < g.stack_count; i++)
		__asan_unpoison_memory_region(g.stacks + i * (STACK + page) + page, STACK);
#endif
	char how[80];
	describe(how, sizeof how);
	snprintf(text, size, "%s: %s [%s]", l.kernel, g.report.s, how);
	return -1;
}

/* ---- what kernels call ---- */

void fault(const char *fmt, ...) {
	char s[600];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(s, sizeof s, fmt, ap);
	va_end(ap);
	const fiber *f = g.current;
	const uint3 b = f->block->index;
	g.failed = true;
	g.report = format("block (%u, %u, %u) thread %s: %s", b.x, b.y, b.z, thread_text(f).s, s);
	leave();
	abort();
}

void yield() { reschedule(); }
void progress() { g.stuck = 0; }
void spin() {
	if (++g.stuck > STUCK) fault("no progress: threads only read and wait%s", standing().s);
	reschedule();
}

void poison(void *p, size_t n) {
	uint8_t *b = (uint8_t *)p;
	if (!now.odd)
		memset(b, 0xff, n);
	else
		for (size_t i = 0; i < n; i++) b[i] = i % 2 ? 0x7f : 0xfe;
}

unsigned lane() { return g.current->lane; }

void collect(const char *op, uint32_t mask, collect_fn fn, void *arg, const char *file, int line) {
	fiber *f = g.current;
	f->op = op, f->mask = mask, f->fn = fn, f->arg = arg, f->file = file, f->line = line;
	if (!(mask >> f->lane & 1)) fault("%s at %s:%d: mask %08x lacks lane %u itself", op, file, line, mask, f->lane);
	f->st = AT_COLLECT;
	ready_set(f, false);
	collect_try(f);
	reschedule();
}

void barrier(const char *op, int id, int threads, bool wait, const char *file, int line) {
	fiber *f = g.current;
	block_state *b = f->block;
	if (id < 0 || id >= BARRIERS) fault("%s at %s:%d: barrier %d, need 0 to 15", op, file, line, id);
	if (threads < 0 || threads % 32)
		fault("%s at %s:%d: %d threads, need a multiple of 32", op, file, line, threads);
	barrier_state *s = &b->barriers[id];
	if (!s->op) s->op = op, s->file = file, s->line = line, s->threads = threads;
	f->op = op, f->file = file, f->line = line, f->barrier = id;
	if (s->threads != threads)
		fault("barrier %d: %s at %s:%d counts %d threads, %s at %s:%d counts %d", id, s->op, s->file, s->line,
		      s->threads, op, file, line, threads);
	if (!threads && (s->line != line || strcmp(s->op, op) || strcmp(s->file, file)))
		fault("divergent barrier: %s at %s:%d, others wait in %s at %s:%d", op, file, line, s->op, s->file,
		      s->line);
	uint32_t *arrived = &s->arrived[f->linear / 32];
	if (*arrived >> f->lane & 1) fault("%s at %s:%d: second arrival at barrier %d", op, file, line, id);
	*arrived |= 1u << f->lane;
	if (wait) {
		f->st = AT_BARRIER;
		ready_set(f, false);
	}
	/* The cheap question first: only a warp that is complete can complete a barrier. */
	if ((*arrived & b->live[f->linear / 32]) == b->live[f->linear / 32]) barrier_try(b, id);
	reschedule();
}

int barrier_vote(const char *op, int pred, int what, const char *file, int line) {
	block_state *b = g.current->block;
	b->count += pred != 0, b->any |= pred != 0, b->all &= pred != 0;
	barrier(op, 0, 0, true, file, line);
	return what == 0 ? b->count_out : what == 1 ? b->all_out : b->any_out;
}

void grid_sync(const char *file, int line) {
	fiber *f = g.current;
	if (!g.l.cooperative) fault("grid barrier at %s:%d: the launch is not cooperative", file, line);
	f->op = "grid barrier", f->file = file, f->line = line, f->st = AT_GRID;
	ready_set(f, false);
	grid_try();
	reschedule();
}

void shuffle_lanes(uint32_t active, void *const arg[32]) {
	for (int i = 0; i < 32; i++) {
		if (!(active >> i & 1)) continue;
		lane_value *a = (lane_value *)arg[i];
		int w = a->width, in = i & (w - 1), from = i;
		if (w < 1 || w > 32 || w & (w - 1)) fault("shuffle width is %d, need a power of two to 32", w);
		if (a->kind == IDX) from = (i & ~(w - 1)) | (a->by & (w - 1));
		if (a->kind == UP && a->by <= in) from = i - a->by;
		if (a->kind == DOWN && a->by < w - in) from = i + a->by;
		if (a->kind == XOR && (i ^ (a->by & 31)) <= (i | (w - 1))) from = i ^ (a->by & 31);
		if (active >> from & 1)
			a->out = ((const lane_value *)arg[from])->in;
		else
			poison(&a->out, sizeof a->out); /* hardware gives no promise either */
	}
}

void vote_lanes(uint32_t active, void *const arg[32]) {
	lane_vote t = {};
	t.active = active, t.all_and = t.umin = 0xffffffffu, t.smin = INT32_MAX, t.smax = INT32_MIN;
	for (int i = 0; i < 32; i++) {
		if (!(active >> i & 1)) continue;
		uint32_t v = (uint32_t)((const lane_vote *)arg[i])->in;
		int32_t s = (int32_t)v;
		t.ballot |= (uint32_t)(v != 0) << i;
		t.all_and &= v, t.all_or |= v, t.all_xor ^= v, t.sum += v;
		t.umin = v < t.umin ? v : t.umin, t.umax = v > t.umax ? v : t.umax;
		t.smin = s < t.smin ? s : t.smin, t.smax = s > t.smax ? s : t.smax;
	}
	for (int i = 0; i < 32; i++) {
		if (!(active >> i & 1)) continue;
		lane_vote *a = (lane_vote *)arg[i];
		t.in = a->in, t.match = 0;
		for (int j = 0; j < 32; j++)
			if (active >> j & 1) t.match |= (uint32_t)(((const lane_vote *)arg[j])->in == a->in) << j;
		*a = t;
	}
}

void *shared(void *key, size_t bytes, size_t align, const char *name) {
	block_state *b = g.current->block;
	for (const shared_array &a : b->arrays)
		if (a.key == key) return b->memory + a.at;
	return shared_take(b, key, bytes, align, name);
}

void *shared_dynamic() {
	block_state *b = g.current->block;
	for (const shared_array &a : b->arrays)
		if (!a.key) return b->memory + a.at;
	return shared_take(b, nullptr, g.l.smem, 16, "(dynamic)");
}

bool in_shared(const void *p, size_t n) {
	const block_state *b = g.current->block;
	const uint8_t *q = (const uint8_t *)p;
	for (const shared_array &a : b->arrays)
		if (q >= b->memory + a.at && q + n <= b->memory + a.at + a.bytes) return true;
	return false;
}

/* ---- cp.async ---- */

static void copy_do(const copy &c) {
	memcpy(c.dst, c.src, (size_t)c.src_bytes);
	memset(c.dst + c.src_bytes, 0, (size_t)(c.bytes - c.src_bytes));
}

void copy_async(void *dst, const void *src, int bytes, int src_bytes) {
	if (bytes != 4 && bytes != 8 && bytes != 16) fault("cp.async: %d bytes, need 4, 8 or 16", bytes);
	if (src_bytes < 0 || src_bytes > bytes) fault("cp.async: %d source bytes of %d", src_bytes, bytes);
	if ((uintptr_t)dst % (unsigned)bytes) fault("cp.async: destination is not aligned to %d bytes", bytes);
	if ((uintptr_t)src % (unsigned)bytes) fault("cp.async: source is not aligned to %d bytes", bytes);
	if (!in_shared(dst, (size_t)bytes)) fault("cp.async: destination is not inside one shared array");
	copy c = {(uint8_t *)dst, (const uint8_t *)src, bytes, src_bytes};
	if (!now.lazy) return copy_do(c);
	poison(dst, (size_t)bytes);
	g.current->groups.back().push_back(c);
}

void copy_commit() { g.current->groups.emplace_back(); }

void copy_wait(int pending) {
	auto &groups = g.current->groups;
	size_t keep = pending < 0 ? 0 : (size_t)pending + 1; /* the open group is not one of them */
	while (groups.size() > keep) {
		for (const copy &c : groups.front()) copy_do(c);
		groups.erase(groups.begin());
	}
	if (groups.empty()) groups.emplace_back();
}

/* ---- device memory ---- */

namespace {
struct allocation {
	uint8_t *base;
	size_t bytes;
	bool mapped; /* pages of its own */
};
std::vector<allocation> allocations;

bool damaged(const allocation &a, char *text, size_t size) {
	int before = guard_damage(a.base), after = guard_damage(a.base + GUARD + a.bytes);
	if (before < 0 && after < 0) return false;
	if (before >= 0)
		snprintf(text, size, "out-of-bounds write %d bytes before a device buffer of %zu bytes", GUARD - before,
		         a.bytes);
	else
		snprintf(text, size, "out-of-bounds write %d bytes past the end of a device buffer of %zu bytes", after,
		         a.bytes);
	guard_put(a.base), guard_put(a.base + GUARD + a.bytes); /* reported once */
	return true;
}
} // namespace

/* Where the environment has WHIT_EMU_LOCK, allocations are pages that only kernels and the queue's functions reach: who
 * reads a device's pointer on the host gets what a GPU would give, a segmentation fault. */
bool locked = getenv("WHIT_EMU_LOCK") != NULL;
size_t shared_limit = 99 << 10;
static int reaching;
static size_t allocated(size_t bytes) { return (bytes + 2 * GUARD + 4095) / 4096 * 4096; }
static void protect(const allocation &a) {
	if (a.mapped && mprotect(a.base, allocated(a.bytes), reaching ? PROT_READ | PROT_WRITE : PROT_NONE)) abort();
}
static void reach(int by) {
	bool was = reaching > 0;
	reaching += by;
	if (was == (reaching > 0)) return;
	for (const allocation &a : allocations) protect(a);
}
device_reach::device_reach() { reach(1); }
device_reach::~device_reach() { reach(-1); }

void *device_alloc(size_t bytes) {
	void *p = locked ? mmap(NULL, allocated(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
	                 : aligned_alloc(256, (bytes + 2 * GUARD + 255) / 256 * 256);
	uint8_t *base = (uint8_t *)p;
	if (!base || p == MAP_FAILED) abort();
	guard_put(base);
	poison(base + GUARD, bytes);
	guard_put(base + GUARD + bytes);
	allocations.push_back({base, bytes, locked});
	protect(allocations.back());
	return base + GUARD;
}

int device_free(void *p, char *text, size_t size) {
	device_reach all;
	for (size_t i = 0; i < allocations.size(); i++) {
		allocation a = allocations[i];
		if (a.base + GUARD != p) continue;
		int rc = damaged(a, text, size) ? -1 : 0;
		if (a.mapped)
			munmap(a.base, allocated(a.bytes));
		else
			free(a.base);
		allocations.erase(allocations.begin() + (long)i);
		return rc;
	}
	snprintf(text, size, "freed memory that is no device buffer");
	return -1;
}

int device_check(char *text, size_t size) {
	device_reach all;
	for (const allocation &a : allocations)
		if (damaged(a, text, size)) return -1;
	return 0;
}

} // namespace emu
