/* M_PI, M_SQRT2 */
#define _GNU_SOURCE
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
	int64_t d;         /* 0: N(0,1) */
	double root, tail; /* sqrt(d); largest z */
	legendre q;
} density;

static density density_make(int64_t d) {
	density f = {.d = d, .root = sqrt((double)d), .q = legendre_make()};
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
		return whit_fail(e, WHIT_EUSAGE,
		                 "codebook: is %d bits, dimension %lld; need 1..8 bits, dimension 4 or more", bits,
		                 (long long)d);
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
	if (!done)
		return whit_fail(e, WHIT_EINTERNAL, "codebook: %d bits, dimension %lld: did not converge", bits,
		                 (long long)d);
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

/* ---- the shipped tables: positive centroids of N(0,1), converged (a test solves them again) ---- */
static const double gauss[255] = {
        0.7978845608028665,  0.4527800346364946,  1.510417608499105,   0.2450941789442214,  0.7560052812058765,
        1.343909278504998,   2.151945704536989,   0.1283950298511458,  0.3880482994902864,  0.6567591185324569,
        0.9423404564869521,  1.256231197347165,   1.618046386021868,   2.069017226531369,   2.732589570995146,
        0.06588965977082266, 0.1980518296694325,  0.3313783057601123,  0.4666995229766815,  0.6049336240094321,
        0.7471357036878168,  0.894565117388371,   1.048783319923197,   1.211804380609261,   1.38634033958662,
        1.576228078612179,   1.787233217703255,   2.028728399395479,   2.317739404194717,   2.691119577376652,
        3.260732493401383,   0.03340950637010111, 0.1002782893038883,  0.1672969033689975,  0.2345669853360123,
        0.3021928463716999,  0.3702826452589425,  0.4389496716586402,  0.5083137808979995,  0.5785030305188061,
        0.6496555810635468,  0.7219219405696811,  0.7954676558408674,  0.8704765865441276,  0.9471549447433033,
        1.025736349077347,   1.106488239537341,   1.189720141860886,   1.275794486433758,   1.36514101981023,
        1.458276374697813,   1.55583122470515,    1.658588900423865,   1.767541882991214,   1.883977240522461,
        2.009611042593707,   2.146810217055893,   2.298981209760402,   2.471304797618297,   2.672273835255294,
        2.917406790723017,   3.240437055012227,   3.74410127089536,    0.01682816945725685, 0.05049086396324642,
        0.08417264205883526, 0.1178862823031125,  0.1516446479097846,  0.1854607214256399,  0.2193476402384702,
        0.2533187331700885,  0.2873875584246116,  0.3215679431805806,  0.3558740251381474,  0.3903202963600114,
        0.4249216497776555,  0.4596934287735034,  0.4946514802958314,  0.5298122120178099,  0.5651926541163017,
        0.600810526321738,   0.6366843109796182,  0.6728333329694984,  0.7092778474518874,  0.7460391365610712,
        0.7831396163373853,  0.8206029554016177,  0.8584542071245138,  0.8967199573448806,  0.9354284900520843,
        0.9746099738874127,  1.014296672852343,   1.054523185263869,   1.095326715798205,   1.136747386453823,
        1.178828593494202,   1.221617418967694,   1.265165107335591,   1.309527620189413,   1.354766285165261,
        1.400948559185073,   1.448148931371769,   1.496449997813304,   1.545943749373296,   1.596733125792021,
        1.648933905584007,   1.70267702345835,    1.758111437745318,   1.815407713495762,   1.874762548493168,
        1.936404558716113,   2.000601771738873,   2.06767147561097,    2.137993378043297,   2.212027517525335,
        2.290339162021599,   2.373634269839683,   2.462811433129785,   2.559040521520481,   2.663886538631168,
        2.779514257981019,   2.909047073609603,   3.057246150608074,   3.231933204266501,   3.447430271103921,
        3.734936644363225,   4.189694156733328,   0.0084461932227553,  0.02533938309934262, 0.04223498380423786,
        0.0591346043408294,  0.07603985639251712, 0.09295235540120124, 0.1098737216522811,  0.1268055813680603,
        0.1437495678114825,  0.1607073224021564,  0.1776804958466691,  0.1946707492852357,  0.2116797554567841,
        0.2287091998846433,  0.2457607820850653,  0.2628362168008961,  0.2799372352627924,  0.2970655864804802,
        0.3142230385666531,  0.3314113800962312,  0.348632421503819,   0.3658879965223443,  0.3831799636660114,
        0.4005102077608636,  0.4178806415264282,  0.4352932072121163,  0.4527498782922549,  0.4702526612238605,
        0.4878035972715122,  0.5054047644039542,  0.5230582792673427,  0.5407662992403854,  0.558531024576948,
        0.5763547006420963,  0.5942396202479384,  0.6121881260960792,  0.6302026133339788,  0.6482855322330405,
        0.6664393909968128,  0.6846667587083213,  0.7029702684262263,  0.7213526204402361,  0.739816585697028,
        0.758365009408799,   0.7770008148575502,  0.7957270074092627,  0.8145466787532876,  0.8334630113835462,
        0.8524792833395445,  0.8715988732267282,  0.8908252655374325,  0.9101620562955085,  0.9296129590498117,
        0.9491818112439805,  0.968872580992466,   0.9886893742955697,  1.008636442729318,   1.028718191649455,
        1.048939188952629,   1.069304174442129,   1.089818069850235,   1.110485989574541,   1.13131325219156,
        1.1523053928175,     1.173468176393581,   1.194807611981604,   1.2163299681649,     1.23804178966043,
        1.259949915259779,   1.28206149723042,    1.304384022324,      1.326925334556005,   1.349693659941079,
        1.372697633391129,   1.395946328009464,   1.419449287044163,   1.443216558798334,   1.467258734834657,
        1.491586991857531,   1.516213137709387,   1.541149661979582,   1.56640979179646,    1.592007553457548,
        1.617957840651783,   1.644276490144215,   1.670980365931201,   1.698087453037211,   1.72561696231849,
        1.753589447870575,   1.782026938914844,   1.81095308837419,    1.840393340753376,   1.870375122432511,
        1.900928058084475,   1.93208421766705,    1.963878399354591,   1.996348454909761,   2.029535665415807,
        2.063485177076688,   2.098246509056764,   2.133874148222474,   2.17042824936783,    2.207975464331594,
        2.246589929732262,   2.286354451398667,   2.327361934728303,   2.369717125269325,   2.41353874441199,
        2.45896213358732,    2.506142560416982,   2.555259397382363,   2.606521466460711,   2.6601739656957,
        2.716507578578674,   2.775870652699828,   2.838685786757363,   2.905472903664978,   2.976882133701332,
        3.053742016169221,   3.137132531702257,   3.228500210578749,   3.329848470000412,   3.444071678214172,
        3.575587972391534,   3.731666262224106,   3.925637783936059,   4.186595442844769,   4.603535612430272,
};

int whit_codebook(float *c, int bits, int density, int64_t d, whit_err *e) {
	if (bits < 1 || bits > 8 || d < 4)
		return whit_fail(e, WHIT_EUSAGE,
		                 "codebook: is %d bits, dimension %lld; need 1..8 bits, dimension 4 or more", bits,
		                 (long long)d);
	int h = 1 << (bits - 1);
	double z[256];
	if (density == WHIT_DENSITY_BETA) {
		if (whit_lloyd_max(z, bits, d, NULL, e)) return e->code;
	} else {
		for (int k = 0; k < h; k++) z[h + k] = gauss[h - 1 + k] / sqrt((double)d), z[h - 1 - k] = -z[h + k];
	}
	for (int k = 0; k < 2 * h; k++) c[k] = (float)z[k];
	return 0;
}
