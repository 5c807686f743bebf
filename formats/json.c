/* json: jansson with our errors. Refuses what json.h says; knows no file's meaning. */
#include <math.h>
#include <stdlib.h>
#include "formats/json.h"

enum { BIG_INTEGERS = 64 }; /* integers beyond int64 that one document may hold */

const char *whit_json_kind(const json_t *j) {
	static const char *const name[] = {"object", "array", "string", "integer", "real", "true", "false", "null"};
	return j ? name[json_typeof(j)] : "absent";
}

/* Where the numeral ends that jansson found too big: its position is the first byte behind it. */
static int numeral_end(const char *text, size_t n, const json_error_t *je, size_t *end) {
	size_t at = (size_t)je->position;
	if (json_error_code(je) != json_error_numeric_overflow || at == 0 || at > n) return 0;
	for (size_t i = at; i-- > 0 && text[i] != '-';) {
		if (text[i] < '0' || text[i] > '9') {
			if (i + 1 == at || text[i] == '.' || text[i] == 'e' || text[i] == 'E' || text[i] == '+')
				return 0;
			break;
		}
	}
	*end = at;
	return 1;
}

int whit_json_parse(json_t **j, const char *text, size_t n, const char *name, whit_err *e) {
	json_error_t je;
	char *own = NULL;
	size_t end;
	*j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
	/* jansson has no number between int64 and double: spell an integer too big for it as a real. */
	for (int k = 0; !*j && k < BIG_INTEGERS && numeral_end(text, n, &je, &end); k++) {
		char *t = whit_alloc(n + 2);
		memcpy(t, text, end);
		memcpy(t + end, ".0", 2);
		memcpy(t + end + 2, text + end, n - end);
		whit_free(own);
		text = own = t;
		n += 2;
		*j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
	}
	whit_free(own);
	if (*j) return 0;
	return whit_fail(e, WHIT_EINPUT, "%s: line %d, column %d: is not JSON: %s", name, je.line, je.column, je.text);
}

int whit_json_load(json_t **j, const char *path, whit_err *e) {
	whit_map m;
	*j = NULL;
	int rc = whit_map_open(&m, path, e);
	if (rc) return rc;
	rc = whit_json_parse(j, (const char *)m.data, m.bytes, path, e);
	whit_map_close(&m);
	return rc;
}

int whit_json_write(const json_t *j, const char *path, whit_err *e) {
	char *t = json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
	if (!t) return whit_fail(e, WHIT_EINTERNAL, "%s: JSON to write holds a cycle or a bad string", path);
	size_t n = strlen(t);
	char *line = whit_alloc(n + 1);
	memcpy(line, t, n);
	line[n] = '\n';
	free(t);
	int rc = whit_write_file(path, line, n + 1, e);
	whit_free(line);
	return rc;
}

/* 1: *v is the value; 0: absent and may be; negative: error. */
static int member(const json_t *j, const char *file, const char *key, int required, const json_t **v, whit_err *e) {
	*v = NULL;
	if (!json_is_object(j))
		return whit_fail(e, WHIT_EINPUT, "%s: is %s where key %s was sought, need object", file,
		                 whit_json_kind(j), key);
	*v = json_object_get(j, key);
	if (*v && !json_is_null(*v)) return 1;
	if (required) return whit_fail(e, WHIT_EINPUT, "%s: key %s is %s, need a value", file, key, whit_json_kind(*v));
	return 0;
}

static int wrong_type(const json_t *v, const char *file, const char *key, const char *need, whit_err *e) {
	return whit_fail(e, WHIT_EINPUT, "%s: key %s is %s, need %s", file, key, whit_json_kind(v), need);
}

int whit_json_int(const json_t *j, const char *file, const char *key, int required, int64_t lo, int64_t hi,
                  int64_t *out, whit_err *e) {
	const json_t *v;
	int64_t x;
	int rc = member(j, file, key, required, &v, e);
	if (rc <= 0) return rc;
	if (json_is_integer(v)) {
		x = json_integer_value(v);
	} else if (json_is_real(v)) {
		double d = json_real_value(v);
		/* 2^63 is the first double that int64 cannot hold; -2^63 fits. */
		if (!(d >= -0x1p63 && d < 0x1p63) || d != floor(d))
			return whit_fail(e, WHIT_EINPUT, "%s: key %s is %.17g, need an integer", file, key, d);
		x = (int64_t)d;
	} else {
		return wrong_type(v, file, key, "integer", e);
	}
	if (x < lo || x > hi)
		return whit_fail(e, WHIT_EINPUT, "%s: key %s is %lld, need %lld to %lld", file, key, (long long)x,
		                 (long long)lo, (long long)hi);
	*out = x;
	return 0;
}

int whit_json_real(const json_t *j, const char *file, const char *key, int required, double lo, double hi, double *out,
                   whit_err *e) {
	const json_t *v;
	int rc = member(j, file, key, required, &v, e);
	if (rc <= 0) return rc;
	if (!json_is_number(v)) return wrong_type(v, file, key, "number", e);
	double x = json_number_value(v);
	if (!isfinite(x) || !(x >= lo && x <= hi))
		return whit_fail(e, WHIT_EINPUT, "%s: key %s is %.17g, need %.9g to %.9g", file, key, x, lo, hi);
	*out = x;
	return 0;
}

int whit_json_bool(const json_t *j, const char *file, const char *key, int required, int *out, whit_err *e) {
	const json_t *v;
	int rc = member(j, file, key, required, &v, e);
	if (rc <= 0) return rc;
	if (!json_is_boolean(v)) return wrong_type(v, file, key, "true or false", e);
	*out = json_is_true(v);
	return 0;
}

int whit_json_text(const json_t *j, const char *file, const char *key, int required, const char **out, whit_err *e) {
	const json_t *v;
	int rc = member(j, file, key, required, &v, e);
	if (rc <= 0) return rc;
	if (!json_is_string(v)) return wrong_type(v, file, key, "string", e);
	*out = json_string_value(v);
	return 0;
}

int whit_json_member(const json_t *j, const char *file, const char *key, int required, json_type type,
                     const json_t **out, whit_err *e) {
	const json_t *v;
	int rc = member(j, file, key, required, &v, e);
	if (rc <= 0) return rc;
	if (json_typeof(v) != type) return wrong_type(v, file, key, type == JSON_OBJECT ? "object" : "array", e);
	*out = v;
	return 0;
}

int whit_json_differs(const json_t *is, const json_t *need, char *list, size_t room) {
	const char *key;
	json_t *v, *all = (json_t *)(uintptr_t)need; /* iterators want it */
	list[0] = 0;
	json_object_foreach(all, key, v) {
		json_t *was = json_object_get(is, key);
		if (json_equal(was, v)) continue;
		char *a = was ? json_dumps(was, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
		char *b = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
		size_t n = strlen(list);
		snprintf(list + n, room - n, "%s%s is %.120s, need %.120s", n ? "; " : "", key, a ? a : "absent", b);
		free(a);
		free(b);
	}
	return list[0] != 0;
}
