#include "formats/codebook.h"
#include <math.h>

/* ---- densities ----
 * Everything is solved for z = sqrt(d) t, whose variance is 1: N(0,1), or for a coordinate t = sin(a) of a random
 * unit vector the density cos(a)^(d-2) da, which is smooth where (1-t^2)^((d-3)/2) dt is not. Both are even, so
 * only z >= 0 is solved, up to TAIL, beyond which neither has mass that a double could see. */
enum { TAIL = 12, NODES = 16 };

/* Gauss-Legendre nodes and weights on (-1, 1). */
typedef struct legendre {
	double x[NODES], w[NODES];
} legendre;

static legendre legendre_make(void) {
	legendre q;
	for (int i = 0; i < NODES; i++) {
		double x = cos(M_PI * (i + 0.75) / (NODES + 0.5)), d = 0;
		for (int it = 0; it < 50; it++) {
			double p0 = 1, p1 = x;
			for (int k = 2; k <= NODES; k++) {
				double p = ((2 * k - 1) * x * p1 - (k - 1) * p0) / k;
				p0 = p1, p1 = p;
			}
			d = NODES * (x * p1 - p0) / (x * x - 1);
			double dx = p1 / d;
			x -= dx;
			if (fabs(dx) < 1e-16) break;
		}
		q.x[i] = x;
		q.w[i] = 2 / ((1 - x * x) * d * d);
	}
	return q;
}

typedef struct density {
	int64_t d; /* 0: N(0,1) */
	double root, tail; /* sqrt(d); largest z */
	legendre q;
} density;

static density density_make(int64_t d) {
	density f = { .d = d, .root = sqrt((double)d), .q = legendre_make() };
	f.tail = d && f.root < TAIL ? f.root : TAIL;
	return f;
}

/* Unnormalised density of z, with the derivative of the integration variable divided out. */
static double density_at(const density *f, double z) {
	if (!f->d) return exp(-0.5 * z * z);
	double t = z / f->root;
	return t < 1 ? exp(0.5 * (double)(f->d - 3) * log1p(-t * t)) : 0;
}

/* Integrals over z in (a, b) of density * (1, z, (z - c)^2). */
static void moments(const density *f, double a, double b, double c, double m[3]) {
	double u = f->d ? asin(fmin(a / f->root, 1)) : a, v = f->d ? asin(fmin(b / f->root, 1)) : b;
	int panels = (int)ceil(4 * (b - a));
	m[0] = m[1] = m[2] = 0;
	panels = WHIT_MAX(panels, 1);
	for (int p = 0; p < panels; p++) {
		double h = (v - u) / panels / 2, mid = u + (2 * p + 1) * h;
		for (int i = 0; i < NODES; i++) {
			double s = mid + h * f->q.x[i], z = s, w;
			if (f->d) {
				double t = sin(s);
				z = f->root * t;
				w = exp(0.5 * (double)(f->d - 2) * log1p(-t * t)) * f->root;
			} else {
				w = exp(-0.5 * s * s);
			}
			w *= h * f->q.w[i];
			m[0] += w;
			m[1] += w * z;
			m[2] += w * (z - c) * (z - c);
		}
	}
}

/* ---- Lloyd-Max ----
 * One round maps the positive centroids c[0..h) to the means of their cells. The optimum is the fixed point,
 * unique because both densities are log-concave. */
static double edge(const density *f, const double *c, int h, int k) {
	return k == 0 ? 0 : k == h ? f->tail : 0.5 * (c[k - 1] + c[k]);
}

static void lloyd_round(const density *f, double *c, int h) {
	double lo = 0, m[3];
	for (int k = 0; k < h; k++) {
		double hi = edge(f, c, h, k + 1); /* reads c[k], c[k + 1], both still old */
		moments(f, lo, hi, 0, m);
		c[k] = m[1] / m[0];
		lo = hi;
	}
}

/* Newton on c - mean(c) = 0, whose Jacobian is tridiagonal: with boundary b between cells, mean moves by
 * (b - mean) f(b) / mass as its upper edge moves, (mean - b) f(b) / mass as its lower one does, and b by half of
 * what each neighbour does. Returns the largest step, or -1 when it would break the order (c is then left). */
static double newton_round(const density *f, double *c, int h) {
	double low[128], diag[128], up[128], r[128], m[3], big = 0;
	for (int k = 0; k < h; k++) {
		double a = edge(f, c, h, k), b = edge(f, c, h, k + 1);
		moments(f, a, b, 0, m);
		double mean = m[1] / m[0];
		double da = k ? 0.5 * (mean - a) * density_at(f, a) / m[0] : 0;
		double db = k + 1 < h ? 0.5 * (b - mean) * density_at(f, b) / m[0] : 0;
		low[k] = -da, diag[k] = 1 - da - db, up[k] = -db, r[k] = mean - c[k];
	}
	for (int k = 1; k < h; k++) {
		double t = low[k] / diag[k - 1];
		diag[k] -= t * up[k - 1];
		r[k] -= t * r[k - 1];
	}
	for (int k = h - 1; k >= 0; k--) {
		if (k + 1 < h) r[k] -= up[k] * r[k + 1];
		r[k] /= diag[k];
		big = fmax(big, fabs(r[k]));
	}
	for (int k = 0; k < h; k++) {
		double next = k + 1 < h ? c[k + 1] + r[k + 1] : f->tail;
		if (!(c[k] + r[k] > 0) || !(c[k] + r[k] < next)) return -1;
	}
	for (int k = 0; k < h; k++) c[k] += r[k];
	return big;
}

/* z with P(Z < z) = p for N(0,1), p >= 1/2. */
static double normal_quantile(double p) {
	double z = 0;
	for (int i = 0; i < 100; i++) {
		double dz = (0.5 * erfc(-z / M_SQRT2) - p) * sqrt(2 * M_PI) * exp(0.5 * z * z);
		z -= dz = fmin(fmax(dz, -0.5), 0.5);
		if (fabs(dz) < 1e-15 * (1 + z)) break;
	}
	return z;
}

int whit_lloyd_max(double *c, int bits, int64_t d, double *mse, whit_err *e) {
	if (bits < 1 || bits > 8 || (d && d < 4))
		return whit_fail(e, WHIT_EUSAGE, "codebook: is %d bits, dimension %lld; need 1..8 bits, dimension 4 or more",
		                 bits, (long long)d);
	density f = density_make(d);
	int h = 1 << (bits - 1), done = 0;
	double z[128];
	/* Panter-Dite: optimal levels thin out as density^(1/3), for N(0,1) a normal of deviation sqrt(3). */
	for (int k = 0; k < h; k++) z[k] = fmin(sqrt(3), 0.2 * f.tail) * normal_quantile(0.5 + 0.5 * (k + 0.5) / h);
	for (int i = 0; i < 200 && !done; i++) {
		double step = newton_round(&f, z, h);
		if (step < 0) lloyd_round(&f, z, h);
		done = step >= 0 && step < 1e-13;
	}
	if (!done) return whit_fail(e, WHIT_EINTERNAL, "codebook: %d bits, dimension %lld: did not converge", bits, (long long)d);
	if (mse) {
		double err = 0, mass = 0, m[3];
		for (int k = 0; k < h; k++) {
			moments(&f, edge(&f, z, h, k), edge(&f, z, h, k + 1), z[k], m);
			mass += m[0];
			err += m[2];
		}
		*mse = err / mass;
	}
	for (int k = 0; k < h; k++) {
		c[h + k] = d ? z[k] / f.root : z[k];
		c[h - 1 - k] = -c[h + k];
	}
	return 0;
}

void whit_lloyd_steps(double *c, int bits, int steps) {
	density f = density_make(0);
	int h = 1 << (bits - 1);
	double z[128], m[3], lo = 0;
	for (int k = 0; k < h; k++) {
		double hi = k + 1 < h ? normal_quantile(0.5 + 0.5 * (k + 1) / h) : f.tail;
		moments(&f, lo, hi, 0, m);
		z[k] = m[1] / m[0];
		lo = hi;
	}
	for (int i = 1; i < steps; i++) lloyd_round(&f, z, h);
	for (int k = 0; k < h; k++) {
		c[h + k] = z[k];
		c[h - 1 - k] = -z[k];
	}
}
