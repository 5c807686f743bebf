/* engine_lora: an adapter (formats/lora.h) at work: its matrices, decoded, with the products of its factors added.
 * Plain and equal on any device, for 4 bytes a weight; a model that is measured has room for that. */
#include "formats/gguf_model.h"
#include "formats/lora.h"
#include "host/engine_own.h"
#include "host/progress.h"

/* Which slot of *program the pair's matrix, a linear of a block, is; -1: there is none. */
static int slot_of(whit_model *m, const whit_gguf_arch *arch, const whit_lora_pair *p, whit_program **program) {
	char hf[128];
	const char *role;
	int64_t layer;
	*program = NULL;
	if (whit_gguf_name_to_hf(arch, p->name, m->layers, hf) || whit_model_role(m, hf, &role, &layer) != 1) return -1;
	*program = &m->layer[layer];
	int k = 0;
	while (strcmp((*program)->slot[k].name, hf)) k++;
	return k;
}

static int check_pair(const whit_model *m, const whit_lora *l, const whit_lora_pair *p, const whit_slot *s,
                      whit_err *e) {
	const whit_mat *w = s ? &s->weight->mat : NULL;
	if (!w)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s.lora_a: %s has no linear of a block of that name",
		                 l->gguf.name, p->name, m->ckpt.path);
	if (w->rows == p->rows && w->cols == p->cols) return 0;
	return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: factors make %lld x %lld, need the %lld x %lld of %s",
	                 l->gguf.name, p->name, (long long)p->rows, (long long)p->cols, (long long)w->rows,
	                 (long long)w->cols, m->ckpt.path);
}

typedef struct adding {
	const whit_mat *stored;
	float *w;           /* (rows, cols), logical rows */
	const float *a, *b; /* b's rows as they are stored */
	const whit_lora_pair *p;
} adding;

static void adding_item(void *ctx, int64_t r, int worker) {
	const adding *x = ctx;
	const whit_lora_pair *p = x->p;
	const float *b = x->b + whit_mat_row(x->stored, r) * p->rank;
	float *w = x->w + r * p->cols;
	(void)worker;
	for (int64_t k = 0; k < p->rank; k++)
		for (int64_t c = 0; c < p->cols; c++) w[c] += p->scale * b[k] * x->a[k * p->cols + c];
}

static int add_pair(whit_program *program, int k, const whit_lora_pair *p, whit_err *e) {
	whit_slot *s = &program->slot[k];
	const whit_mat *stored = &s->weight->mat;
	int rc = s->dense.rows ? 0 : whit_mat_floats(&s->dense, stored, e);
	if (rc) return rc;
	float *a = whit_alloc((size_t)(p->rank * (p->rows + p->cols)) * sizeof *a), *b = a + p->rank * p->cols;
	whit_lora_floats(p, a, b);
	adding x = {stored, (float *)(uintptr_t)s->dense.plane[0], a, b, p};
	whit_parallel(p->rows, adding_item, &x);
	whit_free(a);
	program->bound[k] = program->opened[k] = (whit_bound){.mat = &s->dense};
	int64_t bad = whit_first_nonfinite(x.w, p->rows * p->cols);
	if (bad < 0) return 0;
	return whit_fail(e, WHIT_ENONFINITE,
	                 "tensor %s: row %lld, column %lld with the adapter is %g, need a finite value", p->name,
	                 (long long)(bad / p->cols), (long long)(bad % p->cols), (double)x.w[bad]);
}

static int apply(whit_model *m, const whit_lora *l, const whit_gguf_arch *arch, whit_adapted *info, whit_err *e) {
	int rc = 0;
	for (int64_t i = 0; i < l->n && !rc; i++) {
		const whit_lora_pair *p = &l->pair[i];
		whit_program *program;
		int k = slot_of(m, arch, p, &program);
		rc = check_pair(m, l, p, program ? &program->slot[k] : NULL, e);
		if (!rc && (rc = add_pair(program, k, p, e))) whit_fail_in(e, "%s", l->gguf.name);
		if (rc) return rc;
		info->matrices++;
		info->rank = WHIT_MAX(info->rank, p->rank);
		info->weights += p->rows * p->cols;
		info->factor_bytes += (int64_t)(p->a->bytes + p->b->bytes);
	}
	return rc;
}

int whit_model_adapt(whit_model *m, const char *path, whit_adapted *info, whit_err *e) {
	whit_lora l;
	const char *name;
	*info = (whit_adapted){.path = path};
	if (m->dev) return whit_fail(e, WHIT_EINTERNAL, "%s: comes after the model went to a device", path);
	if (!m->ckpt.gguf)
		return whit_fail(e, WHIT_EINPUT, "%s: adapters are of GGUF files, %s is %s, need a GGUF", path,
		                 m->ckpt.path, whit_ckpt_kind_name(m->ckpt.kind));
	int rc = whit_gguf_string(m->ckpt.gguf, "general.architecture", 1, &name, e);
	const whit_gguf_arch *arch = rc ? NULL : whit_gguf_arch_find(name, e);
	if (!arch) return e->code;
	if ((rc = whit_lora_open(&l, path, name, e))) return rc;
	info->bytes = (int64_t)l.gguf.map.bytes;
	rc = apply(m, &l, arch, info, e);
	whit_lora_close(&l);
	if (!rc)
		whit_say("%s: %lld matrices with their adapter are held as F32: %.1f MB", path,
		         (long long)info->matrices, (double)info->weights * sizeof(float) / 1e6);
	return rc;
}
