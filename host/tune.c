/* tune: reading and writing of tuned products. */
#define _GNU_SOURCE
#include "host/tune.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include "formats/json.h"
#include "host/progress.h"

enum { VERSION = 1, BYTES = 16 << 20, PRODUCTS = 4096 }; /* of a file, of a device in it */
static const double MOST_US = 1e12;

int whit_tune_best(const double us[WHIT_TIERS], int usual) {
	int best = us[usual] > 0 ? usual : -1;
	for (int i = 0; i < WHIT_TIERS; i++)
		if (us[i] > 0 && (best < 0 || us[i] < us[best])) best = i;
	return best >= 0 && us[usual] > 0 && us[best] > 0.98 * us[usual] ? usual : best;
}

char *whit_tune_path(const char *given, int make) {
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	if (given && *given) return strcmp(given, "none") ? whit_strdup(given) : NULL;
	int given_cache = cache && *cache == '/'; /* its specification: a relative one is none */
	if (!given_cache && (!home || !*home)) return NULL;
	char *base = given_cache ? whit_strdup(cache) : whit_format_text("%s/.cache", home);
	char *dir = whit_format_text("%s/whit", base), *path = whit_format_text("%s/tune.json", dir);
	if (make) mkdir(base, 0700), mkdir(dir, 0777); /* where that fails, writing does, and says so */
	whit_free(base);
	whit_free(dir);
	return path;
}

/* ---- what stands in the file ---- */

/* What the numbers of d depend on, as a member of "devices" without its products. */
static json_t *group_of(whit_dev *d) {
	whit_dev_info i;
	char capability[32], toolkit[32];
	whit_dev_describe(d, &i);
	snprintf(capability, sizeof capability, "%d.%d", i.major, i.minor);
	snprintf(toolkit, sizeof toolkit, "%d.%d", i.toolkit / 1000, i.toolkit / 10 % 100);
	return json_pack("{s:s, s:s, s:s, s:s, s:i}", "device", i.name, "compute_capability", capability, "toolkit",
	                 toolkit, "whit", WHIT_VERSION, "terms", WHIT_MIN(whit_dev_terms(d, 0), 2));
}

/* The member of the file that is d's; NULL: it has none. */
static json_t *group_find(const json_t *file, whit_dev *d) {
	json_t *own = group_of(d), *found = NULL, *g;
	char text[1024];
	size_t i;
	json_array_foreach(json_object_get(file, "devices"), i, g) {
		if (!found && !whit_json_differs(g, own, text, sizeof text)) found = g;
	}
	json_decref(own);
	return found;
}

static int tier_of(const char *name) {
	for (int i = 0; i < WHIT_TIERS; i++)
		if (!strcmp(name, whit_tier_name(i))) return i;
	return -1;
}

static int no_tier(const char *file, const char *what, const char *is, whit_err *e) {
	char need[128] = "";
	for (int i = 0; i < WHIT_TIERS; i++)
		snprintf(need + strlen(need), sizeof need - strlen(need), " %s", whit_tier_name(i));
	return whit_fail(e, WHIT_EINPUT, "%s: %s is \"%.64s\", need one of:%s", file, what, is, need);
}

static int entry_read(whit_tune_entry *t, const json_t *j, const char *file, whit_err *e) {
	const char *format, *tier, *key;
	const json_t *us;
	json_t *v;
	int known = 0, tier_at;
	memset(t, 0, sizeof *t);
	if (whit_json_text(j, file, "format", 1, &format, e) || whit_json_text(j, file, "tier", 1, &tier, e) ||
	    whit_json_int(j, file, "rows", 1, 1, 1LL << 40, &t->p.rows, e) ||
	    whit_json_int(j, file, "width", 1, 1, 1LL << 40, &t->p.width, e) ||
	    whit_json_int(j, file, "tokens", 1, 1, 1LL << 40, &t->p.tokens, e) ||
	    whit_json_member(j, file, "us", 1, JSON_OBJECT, &us, e))
		return e->code;
	if (!*format || strlen(format) >= sizeof t->p.format)
		return whit_fail(e, WHIT_EINPUT, "%s: key format is \"%.64s\", need 1 to %d characters", file, format,
		                 (int)sizeof t->p.format - 1);
	memcpy(t->p.format, format, strlen(format));
	for (int i = 0; i < WHIT_TUNE_RANGES; i++) known |= t->p.tokens == whit_tune_from(i);
	if (!known)
		return whit_fail(e, WHIT_EINPUT, "%s: key tokens is %lld, need where a range begins: 1, 2, 5, ...",
		                 file, (long long)t->p.tokens);
	if ((t->p.tier = tier_of(tier)) < 0) return no_tier(file, "key tier", tier, e);
	json_object_foreach((json_t *)(uintptr_t)us, key, v) {
		if ((tier_at = tier_of(key)) < 0) return no_tier(file, "a key of us", key, e);
		if (whit_json_real(us, file, key, 1, 0, MOST_US, &t->us[tier_at], e)) return e->code;
	}
	return 0;
}

static int same(const whit_tuned *a, const whit_tuned *b) {
	return a->rows == b->rows && a->width == b->width && a->tokens == b->tokens && !strcmp(a->format, b->format);
}

/* Every device has its array of products, whosever it is; d's are read in full. */
static int check(const json_t *file, const char *path, whit_err *e) {
	const json_t *devices, *products;
	int64_t version;
	size_t i;
	json_t *g;
	if (whit_json_int(file, path, "format_version", 1, VERSION, VERSION, &version, e) ||
	    whit_json_member(file, path, "devices", 1, JSON_ARRAY, &devices, e))
		return e->code;
	json_array_foreach((json_t *)(uintptr_t)devices, i, g) {
		if (whit_json_member(g, path, "products", 1, JSON_ARRAY, &products, e)) return e->code;
		if (json_array_size(products) > PRODUCTS)
			return whit_fail(e, WHIT_EINPUT, "%s: a device has %zu products, need at most %d", path,
			                 json_array_size(products), PRODUCTS);
	}
	return 0;
}

/* The file and d's entries, if any; *file is NULL where none is there. */
static int load(json_t **file, whit_tune_entry **entry, int *n, whit_dev *d, const char *path, whit_err *e) {
	whit_map m;
	json_t *products, *j;
	size_t i;
	*file = NULL, *entry = NULL, *n = 0;
	if (!whit_file_exists(path)) return 0;
	int rc = whit_map_open(&m, path, e);
	if (rc) return rc;
	if (m.bytes > BYTES) rc = whit_fail(e, WHIT_EINPUT, "%s: has %zu bytes, need at most %d", path, m.bytes, BYTES);
	if (!rc) rc = whit_json_parse(file, (const char *)m.data, m.bytes, path, e);
	whit_map_close(&m);
	if (!rc) rc = check(*file, path, e);
	products = rc ? NULL : json_object_get(group_find(*file, d), "products");
	*entry = whit_alloc(sizeof **entry * (json_array_size(products) + 1));
	json_array_foreach(products, i, j) {
		whit_tune_entry *t = &(*entry)[i];
		if ((rc = entry_read(t, j, path, e))) break;
		for (int k = 0; k < *n && !rc; k++)
			if (same(&t->p, &(*entry)[k].p))
				rc = whit_fail(e, WHIT_EINPUT,
				               "%s: products %d and %d are one: %s %lldx%lld, tokens %lld", path, k, *n,
				               t->p.format, (long long)t->p.rows, (long long)t->p.width,
				               (long long)t->p.tokens);
		if (rc) break;
		++*n;
	}
	return rc;
}

void whit_tune_read(whit_dev *d, const char *path) {
	json_t *file;
	whit_tune_entry *entry;
	whit_err e = {0};
	int n, rc = load(&file, &entry, &n, d, path, &e);
	whit_tuned *p = whit_alloc(sizeof *p * (size_t)WHIT_MAX(n, 1));
	for (int i = 0; i < n; i++) p[i] = entry[i].p;
	if (rc)
		whit_say("warning: %s; nothing is tuned by it", e.text);
	else
		whit_dev_tune(d, p, n);
	whit_free(p);
	whit_free(entry);
	json_decref(file);
}

static json_t *entry_json(const whit_tune_entry *t) {
	json_t *us = json_object();
	for (int i = 0; i < WHIT_TIERS; i++)
		if (t->us[i] > 0) json_object_set_new(us, whit_tier_name(i), json_real(t->us[i]));
	return json_pack("{s:s, s:I, s:I, s:I, s:s, s:o}", "format", t->p.format, "rows", (json_int_t)t->p.rows,
	                 "width", (json_int_t)t->p.width, "tokens", (json_int_t)t->p.tokens, "tier",
	                 whit_tier_name(t->p.tier), "us", us);
}

int whit_tune_write(whit_dev *d, const char *path, const whit_tune_entry *entry, int n, whit_err *e) {
	json_t *file, *group = NULL, *products = json_array();
	whit_tune_entry *old;
	int n_old, rc = load(&file, &old, &n_old, d, path, e);
	if (!file) file = json_pack("{s:i, s:[]}", "format_version", VERSION, "devices");
	for (int i = 0; i < n_old; i++) {
		int again = 0;
		for (int k = 0; k < n; k++) again |= same(&old[i].p, &entry[k].p);
		if (!again) json_array_append_new(products, entry_json(&old[i]));
	}
	for (int i = 0; i < n; i++) {
		int later = 0; /* blocks and the codes they become on the device have one name */
		for (int k = i + 1; k < n; k++) later |= same(&entry[i].p, &entry[k].p);
		if (!later) json_array_append_new(products, entry_json(&entry[i]));
	}
	if (!rc && json_array_size(products) > PRODUCTS)
		rc = whit_fail(e, WHIT_ERESOURCE, "%s: the device would have %zu products, need at most %d", path,
		               json_array_size(products), PRODUCTS);
	if (!rc && !(group = group_find(file, d)))
		json_array_append_new(json_object_get(file, "devices"), group = group_of(d));
	if (!rc) json_object_set(group, "products", products);
	if (!rc) rc = n ? whit_json_write(file, path, e) : whit_out_try(path, e);
	json_decref(products);
	json_decref(file);
	whit_free(old);
	return rc;
}
