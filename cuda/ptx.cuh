/* ptx: every PTX instruction we use, each with a device and a host branch of one meaning. asm stands nowhere else
 * (tests/rooms.cmake). Fragments are 32-bit registers as the PTX manual draws them, "Matrix fragments for
 * mma.m16n8k16" and "m16n8k32"; with g = lane / 4 and t = lane % 4:
 *
 *   16-bit k16:  a[0..3] rows g, g+8, g, g+8, columns 2t, 2t, 2t+8, 2t+8 (and the next in the high half)
 *                b[0..1] rows 2t, 2t+8 (and the next), column g            c[0..3] rows g, g, g+8, g+8, columns 2t,
 * 2t+1, ... 8-bit k32:   a[0..3] rows g, g+8, g, g+8, columns 4t, 4t, 4t+16, 4t+16 (and the next three) b[0..1] rows
 * 4t, 4t+16 (and the next three), column g */
#ifndef WHIT_PTX_CUH
#define WHIT_PTX_CUH
#ifdef __CUDACC__
#define PTX static __device__ __forceinline__
#define PTX_AT /* where a caller stands: the host branch reports it */
#define PTX_HERE
static __device__ __forceinline__ unsigned ptx_shared_address(const void *p) {
	return (unsigned)__cvta_generic_to_shared(p);
}
#else
#include "tests/emu/ptx_host.h"
#define PTX static inline
#define PTX_AT , EMU_AT
#define PTX_HERE , file, line
#endif

/* ---- bits ---- */

/* Bit i of the result is bit (a_i << 2 | b_i << 1 | c_i) of table: (a & b) | c is 0xea. */
template <unsigned table> PTX unsigned ptx_lop3(unsigned a, unsigned b, unsigned c) {
#ifdef __CUDACC__
	unsigned d;
	asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(table));
	return d;
#else
	return emu::lop3(a, b, c, table);
#endif
}

/* Byte i of the result is byte (selector >> 4i) & 7 of b:a, or, where the nibble's bit 3 is set, its sign eight times.
 */
PTX unsigned ptx_prmt(unsigned a, unsigned b, unsigned selector) {
#ifdef __CUDACC__
	unsigned d;
	asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
	return d;
#else
	return emu::prmt(a, b, selector);
#endif
}

/* c + the dot product of four signed bytes. */
PTX int ptx_dp4a(int a, int b, int c) {
#ifdef __CUDACC__
	int d;
	asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
	return d;
#else
	return emu::dp4a<int8_t, int8_t>((unsigned)a, (unsigned)b, c);
#endif
}

/* a unsigned, b signed. */
PTX int ptx_dp4a_us(unsigned a, int b, int c) {
#ifdef __CUDACC__
	int d;
	asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
	return d;
#else
	return emu::dp4a<uint8_t, int8_t>(a, (unsigned)b, c);
#endif
}

/* The upper word of (high:low) << (shift & 31). */
PTX unsigned ptx_shift_left(unsigned low, unsigned high, unsigned shift) {
#ifdef __CUDACC__
	unsigned d;
	asm("shf.l.wrap.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(low), "r"(high), "r"(shift));
	return d;
#else
	return (unsigned)((((uint64_t)high << 32 | low) << (shift & 31)) >> 32);
#endif
}

/* The lower word of (high:low) >> (shift & 31). */
PTX unsigned ptx_shift_right(unsigned low, unsigned high, unsigned shift) {
#ifdef __CUDACC__
	unsigned d;
	asm("shf.r.wrap.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(low), "r"(high), "r"(shift));
	return d;
#else
	return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
#endif
}

/* ---- memory ---- */

/* Read once: not kept in L1. p is aligned to 16 bytes. Stays in front of a ptx_grid_wait that it stands in front of. */
PTX uint4 ptx_load_stream(const uint4 *p) {
#ifdef __CUDACC__
	uint4 v;
	asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
	             : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
	             : "l"(p));
	return v;
#else
	return *p;
#endif
}

/* 16 and 8 bytes into global memory at one go, p aligned to them. */
PTX void ptx_store(uint4 *p, uint4 v) {
#ifdef __CUDACC__
	asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
	             : "memory");
#else
	*p = v;
#endif
}
PTX void ptx_store(uint2 *p, uint2 v) {
#ifdef __CUDACC__
	asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(p), "r"(v.x), "r"(v.y) : "memory");
#else
	*p = v;
#endif
}

/* Written by other blocks: sees what they released. */
PTX unsigned ptx_load_acquire(const unsigned *p) {
#ifdef __CUDACC__
	unsigned v;
	asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
	return v;
#else
	emu::spin();
	return *(const volatile unsigned *)p;
#endif
}

PTX void ptx_store_release(unsigned *p, unsigned v) {
#ifdef __CUDACC__
	asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
#else
	emu::yield();
	emu::progress();
	*(volatile unsigned *)p = v;
#endif
}

PTX void ptx_fence() {
#ifdef __CUDACC__
	asm volatile("fence.acq_rel.gpu;" ::: "memory");
#else
	emu::yield();
#endif
}

/* Lets the next kernel's blocks start, then waits until all work in front of this kernel is done and seen (sm_90; a
 * kernel launched without the attribute waits for nothing). */
PTX void ptx_grid_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
	asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* ---- barriers by number: 0 is __syncthreads' own; threads, a multiple of 32, count those who wait and arrive ---- */

PTX void ptx_barrier_sync(int id, int threads PTX_AT) {
#ifdef __CUDACC__
	asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
	emu::barrier("bar.sync", id, threads, true PTX_HERE);
#endif
}

PTX void ptx_barrier_arrive(int id, int threads PTX_AT) {
#ifdef __CUDACC__
	asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
	emu::barrier("bar.arrive", id, threads, false PTX_HERE);
#endif
}

/* ---- cp.async: global to shared, past the registers ---- */

/* n (16, 8 or 4) bytes, of which the first `have` are read and the rest zero. Both ends aligned to n. 16 go past L1. */
template <int n> PTX void ptx_copy_async(void *shared, const void *global, int have = n) {
	static_assert(n == 4 || n == 8 || n == 16, "cp.async copies 4, 8 or 16 bytes");
#ifdef __CUDACC__
	if (n == 16)
		asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(ptx_shared_address(shared)),
		             "l"(global), "r"(have)
		             : "memory");
	else
		asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(ptx_shared_address(shared)),
		             "l"(global), "n"(n), "r"(have)
		             : "memory");
#else
	emu::copy_async(shared, global, n, have);
#endif
}

PTX void ptx_copy_commit() {
#ifdef __CUDACC__
	asm volatile("cp.async.commit_group;" ::: "memory");
#else
	emu::copy_commit();
#endif
}

/* Until at most `pending` of this thread's latest groups are under way. Others see them after a barrier. */
template <int pending> PTX void ptx_copy_wait() {
#ifdef __CUDACC__
	asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#else
	emu::copy_wait(pending);
#endif
}

/* ---- ldmatrix: n 8 x 8 matrices of 16-bit elements. Lane 8 m + r gives the address of row r of matrix m (16 bytes,
 * so aligned); register m of lane l holds row l / 4, columns 2 (l % 4) and the next. Transposed: column for row. ----
 */

PTX void ptx_ldmatrix_x2(unsigned r[2], const void *row PTX_AT) {
#ifdef __CUDACC__
	asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
	             : "=r"(r[0]), "=r"(r[1])
	             : "r"(ptx_shared_address(row))
	             : "memory");
#else
	emu::ldmatrix(r, row, 2, false PTX_HERE);
#endif
}

PTX void ptx_ldmatrix_x4(unsigned r[4], const void *row PTX_AT) {
#ifdef __CUDACC__
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
	             : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
	             : "r"(ptx_shared_address(row))
	             : "memory");
#else
	emu::ldmatrix(r, row, 4, false PTX_HERE);
#endif
}

PTX void ptx_ldmatrix_x4_trans(unsigned r[4], const void *row PTX_AT) {
#ifdef __CUDACC__
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
	             : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
	             : "r"(ptx_shared_address(row))
	             : "memory");
#else
	emu::ldmatrix(r, row, 4, true PTX_HERE);
#endif
}

/* ---- mma: c += a b, a 16 x k row by row, b k x 8 column by column ---- */

#ifdef __CUDACC__
#define PTX_MMA(shape_types, constraint)                                                                               \
	asm volatile("mma.sync.aligned." shape_types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "    \
	             "%3};"                                                                                            \
	             : "+" constraint(c[0]), "+" constraint(c[1]), "+" constraint(c[2]), "+" constraint(c[3])          \
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#endif

PTX void ptx_mma_f16(float c[4], const unsigned a[4], const unsigned b[2] PTX_AT) {
#ifdef __CUDACC__
	PTX_MMA("m16n8k16.row.col.f32.f16.f16.f32", "f");
#else
	emu::mma("mma f16", emu::F16_F32, c, a, b PTX_HERE);
#endif
}

PTX void ptx_mma_bf16(float c[4], const unsigned a[4], const unsigned b[2] PTX_AT) {
#ifdef __CUDACC__
	PTX_MMA("m16n8k16.row.col.f32.bf16.bf16.f32", "f");
#else
	emu::mma("mma bf16", emu::BF16_F32, c, a, b PTX_HERE);
#endif
}

/* f16 sums: c[0] is row g, c[1] row g + 8, columns 2t and the next. */
PTX void ptx_mma_f16_f16(unsigned c[2], const unsigned a[4], const unsigned b[2] PTX_AT) {
#ifdef __CUDACC__
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
	             : "+r"(c[0]), "+r"(c[1])
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
	emu::mma("mma f16 f16", emu::F16_F16, c, a, b PTX_HERE);
#endif
}

PTX void ptx_mma_s8(int c[4], const unsigned a[4], const unsigned b[2] PTX_AT) {
#ifdef __CUDACC__
	PTX_MMA("m16n8k32.row.col.s32.s8.s8.s32", "r");
#else
	emu::mma("mma s8", emu::S8_S32, c, a, b PTX_HERE);
#endif
}

/* a unsigned, b signed. */
PTX void ptx_mma_u8s8(int c[4], const unsigned a[4], const unsigned b[2] PTX_AT) {
#ifdef __CUDACC__
	PTX_MMA("m16n8k32.row.col.s32.u8.s8.s32", "r");
#else
	emu::mma("mma u8 s8", emu::U8S8_S32, c, a, b PTX_HERE);
#endif
}
#endif
