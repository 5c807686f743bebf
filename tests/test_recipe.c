/* test_recipe: what lines mean, who wins, and what is refused. */
#include "tests/test.h"
#include "calib/recipe.h"
#include "formats/codebook.h"

static whit_rule base(void) {
	whit_err e;
	return (whit_rule){.method = whit_method_find("turboquant", &e), .rotation = -1, .seed = 42};
}

static int parse(whit_recipe *r, const char *text, whit_err *e) {
	whit_rule b = base();
	return whit_recipe_parse(r, text, strlen(text), "r.txt", &b, e);
}

static whit_rule *match(whit_recipe *r, const char *name, int cls, whit_err *e) {
	return whit_recipe_match(r, &(whit_subject){.name = name, .cls = cls, .layer = -1, .arch = ""}, e);
}

/* Does the only rule's pattern match? */
static int matches(const char *pattern, const char *name) {
	whit_err e;
	whit_recipe r;
	char *text = whit_format_text("%s keep\n", pattern);
	int hit = -1;
	if (!CHECK_RC(parse(&r, text, &e), e)) return -1;
	hit = match(&r, name, WHIT_CLASS_LINEAR, &e) != NULL;
	CHECK_INT(hit ? 0 : WHIT_EUSAGE, e.code);
	whit_recipe_free(&r);
	whit_free(text);
	return hit;
}

static void globs(void) {
	static const struct {
		const char *pattern, *name;
		int want;
	} row[] = {{"*", "", 1},
	           {"*", "a.b", 1},
	           {"a", "a", 1},
	           {"a", "ab", 0},
	           {"ab", "a", 0},
	           {"?b", "ab", 1},
	           {"?", "", 0},
	           {"*.q_proj.weight", "model.layers.10.self_attn.q_proj.weight", 1},
	           {"*.layers.1.*", "model.layers.10.mlp.up_proj.weight", 0},
	           {"*.layers.1.*", "model.layers.1.mlp.up_proj.weight", 1},
	           {"*a*a*b", "aaaaaaaaaaaac", 0},
	           {"*ab*ab", "abxab", 1},
	           {"[a-c]x", "bx", 1},
	           {"[a-c]x", "dx", 0},
	           {"[!a-c]x", "dx", 1},
	           {"[^a-c]x", "ax", 0},
	           {"[]a]", "]", 1},
	           {"[a-]", "-", 1},
	           {"[!]]", "]", 0},
	           {"{a,b}c", "bc", 1},
	           {"{a,b}c", "c", 0},
	           {"{,b}c", "c", 1},
	           {"x{a,b{c,d}}*{e,f}", "xbd...f", 1},
	           {"x{a,b{c,d}}*{e,f}", "xb...f", 0},
	           {"{[,],x}", ",", 1},
	           {"{[}],y}", "}", 1},
	           {"*.{k,v}_proj.*", "m.v_proj.weight", 1},
	           {"*.{k,v}_proj.*", "m.q_proj.weight", 0},
	           {"@linear", "anything", 1},
	           {"@embedding", "anything", 0}};
	for (int i = 0; i < WHIT_COUNT(row); i++)
		CHECK_MSG(matches(row[i].pattern, row[i].name) == row[i].want, "%s on %s, want %d", row[i].pattern,
		          row[i].name, row[i].want);
	/* A pattern made to need exponential time elsewhere. */
	char name[2001], pattern[201];
	memset(name, 'a', 2000);
	name[2000] = 0;
	for (int i = 0; i < 200; i++) pattern[i] = i % 2 ? 'a' : '*';
	pattern[199] = 'b';
	pattern[200] = 0;
	CHECK_INT(matches(pattern, name), 0);
}

static void first_wins(void) {
	whit_err e;
	whit_recipe r;
	static const char text[] =
	        "# comment\n"
	        "\n"
	        "*.layers.0.*  keep            # the first layer\r\n"
	        "  *.k_proj.*\tint8 method=nearest seed=7\n"
	        "@linear tq4g128 rotation=haar_qr scale=norm_corrected density=beta seed=9223372036854775807\n"
	        "@embedding keep";
	if (!CHECK_RC(parse(&r, text, &e), e)) return;
	CHECK_INT(r.n, 4);
	CHECK(match(&r, "m.layers.0.k_proj.weight", WHIT_CLASS_LINEAR, &e) == &r.rule[0] && r.rule[0].keep);
	const whit_rule *k = match(&r, "m.layers.1.k_proj.weight", WHIT_CLASS_LINEAR, &e);
	CHECK(k == &r.rule[1] && !k->keep && !strcmp(k->method->name, "nearest") && k->rotation == WHIT_ROT_NONE);
	CHECK(k->seed == 7 && k->spec.bits == 8 && k->line == 4);
	const whit_rule *q = match(&r, "m.layers.1.q_proj.weight", WHIT_CLASS_LINEAR, &e);
	CHECK(q == &r.rule[2] && !strcmp(q->method->name, "turboquant") && q->rotation == WHIT_ROT_HAAR_QR);
	CHECK(q->seed == INT64_MAX && q->spec.bits == 4 && q->spec.group == 128 && q->rule == WHIT_SCALE_NORM);
	CHECK(q->density == WHIT_DENSITY_BETA);
	CHECK(match(&r, "m.embed", WHIT_CLASS_EMBEDDING, &e) == &r.rule[3]);
	/* Norms ask nobody but a "keep" line. */
	CHECK(match(&r, "m.layers.0.norm.weight", WHIT_CLASS_NONE, &e) == &r.rule[0]);
	CHECK(!match(&r, "m.norm.weight", WHIT_CLASS_NONE, &e) && e.code == 0);
	CHECK_RC(whit_recipe_idle(&r, &e), e);
	CHECK_INT(r.rule[1].shadowed, 1);
	/* Resolved text parses back to the same text, and says everything. */
	char *once = whit_recipe_text(&r), *twice;
	whit_recipe again;
	CHECK(strstr(once, "*.k_proj.* int8") && strstr(once, "method=nearest rotation=none seed=7"));
	CHECK(strstr(once, "scale=norm_corrected density=beta seed=9223372036854775807"));
	if (CHECK_RC(parse(&again, once, &e), e)) {
		twice = whit_recipe_text(&again);
		CHECK_TEXT(twice, once);
		whit_free(twice);
		whit_recipe_free(&again);
	}
	whit_free(once);
	whit_recipe_free(&r);
}

/* ---- conditions ---- */

static const whit_subject v7 = {.name = "model.layers.7.self_attn.v_proj.weight",
                                .cls = WHIT_CLASS_LINEAR,
                                .layer = 7,
                                .layers = 28,
                                .gqa = 4,
                                .arch = "qwen3",
                                .tied = 1};

static void conditions(void) {
	static const struct {
		const char *when;
		int want;
	} row[] = {{"layer<8", 1},
	           {"layer<7", 0},
	           {"layer>=7", 1},
	           {"layer>=8", 0},
	           {"layer=7", 1},
	           {"layer=n/4", 1},
	           {"layer<n/3", 1}, /* 9 */
	           {"layer<n/4", 0},
	           {"layers=28", 1},
	           {"layers<28", 0},
	           {"gqa>=4", 1},
	           {"gqa>=5", 0},
	           {"gqa<4", 0},
	           {"arch=qwen3", 1},
	           {"arch=qwen", 0},
	           {"arch=qwen33", 0},
	           {"tied", 1},
	           {"untied", 0},
	           {"imatrix", 0},
	           {"more", 0},
	           {"tied,layer=7,gqa=4,arch=qwen3,layers>=28", 1},
	           {"tied,layer=7,gqa=5", 0}};
	whit_err e;
	whit_recipe r;
	for (int i = 0; i < WHIT_COUNT(row); i++) {
		char *text = whit_format_text("*.v_proj.weight int8 when=%s\n@linear int4\n", row[i].when);
		if (!CHECK_RC(parse(&r, text, &e), e)) return;
		const whit_rule *u = whit_recipe_match(&r, &v7, &e);
		CHECK_MSG(u && u->spec.bits == (row[i].want ? 8 : 4), "when=%s: got %d bits", row[i].when,
		          u ? u->spec.bits : -1);
		CHECK_RC(whit_recipe_idle(&r, &e), e); /* neither a line with when, nor one behind it */
		whit_recipe_free(&r);
		whit_free(text);
	}
	/* Outside layers no question about the layer is true. */
	if (!CHECK_RC(parse(&r, "* keep when=more\n* keep when=layer<100\n* int8 when=layers=28\n", &e), e)) return;
	whit_subject head = v7;
	head.cls = WHIT_CLASS_HEAD;
	head.layer = -1;
	CHECK(whit_recipe_match(&r, &head, &e) == &r.rule[2]);
	whit_recipe_free(&r);
	/* more: of 28 layers 0-2, 24-27, and every third between. */
	if (!CHECK_RC(parse(&r, "* int8 when=more\n* int4\n", &e), e)) return;
	for (int l = 0; l < 28; l++) {
		whit_subject s = v7;
		s.layer = l;
		const whit_rule *u = whit_recipe_match(&r, &s, &e);
		CHECK_INT(u ? u->spec.bits : 0, l < 3 || l >= 24 || l % 3 == 2 ? 8 : 4);
	}
	whit_recipe_free(&r);
}

static void classes_and_text(void) {
	whit_err e;
	whit_recipe r, again;
	if (!CHECK_RC(parse(&r, "@head int8\n@embedding int4 when=untied\n* keep when=layer<1,more\n* int2\n", &e), e))
		return;
	CHECK(match(&r, "e", WHIT_CLASS_HEAD, &e) == &r.rule[0]);
	whit_subject s = {.name = "e", .cls = WHIT_CLASS_EMBEDDING, .layer = -1, .arch = ""};
	CHECK(whit_recipe_match(&r, &s, &e) == &r.rule[1]);
	s.tied = 1;
	CHECK(whit_recipe_match(&r, &s, &e) == &r.rule[3]);
	char *once = whit_recipe_text(&r), *twice;
	CHECK(strstr(once, " when=untied\n") && strstr(once, "* keep when=layer<1,more\n"));
	if (CHECK_RC(parse(&again, once, &e), e)) {
		twice = whit_recipe_text(&again);
		CHECK_TEXT(twice, once);
		whit_free(twice);
		whit_recipe_free(&again);
	}
	whit_free(once);
	/* Options go first, other recipes last; neither has to decide anything. */
	CHECK_RC(parse(&again, "* int3\n", &e), e);
	whit_recipe_join(&r, &again);
	CHECK_RC(whit_recipe_prepend(&r, "@head", "int3", &e), e);
	CHECK_INT(r.n, 6);
	CHECK(match(&r, "e", WHIT_CLASS_HEAD, &e) == &r.rule[0] && r.rule[0].spec.bits == 3);
	CHECK_FAILS(whit_recipe_prepend(&r, "@head", "int99", &e), WHIT_EUSAGE, e, "int99");
	whit_recipe_free(&r);

	static const char *const bad[] = {"",       "mor",       "layer",    "layer<",   "layer<n/0",     "layer>3",
	                                  "gqa=x",  "arch=",     "more,",    ",more",    "layer<3x",      "layer<n",
	                                  "tied=1", "layers=-1", "layer<=3", "imatrix,", "layer<1234567", "n/8"};
	for (int i = 0; i < WHIT_COUNT(bad); i++) {
		char *text = whit_format_text("* int8 when=%s\n", bad[i]);
		CHECK_FAILS(parse(&r, text, &e), WHIT_EUSAGE, e, "r.txt:1: when");
		whit_free(text);
	}
	CHECK_FAILS(parse(&r, "* int8 when=more when=tied\n", &e), WHIT_EUSAGE, e, "each key once");
	CHECK_FAILS(parse(&r, "* keep seed=1\n", &e), WHIT_EUSAGE, e, "none but when=");
	CHECK(whit_preset_find("q4_k_m") && whit_preset_find("Q4_K") == whit_preset_find("Q4_K_M"));
	CHECK(!whit_preset_find("Q4") && !whit_preset_find("") && !whit_preset_find("Q4_K_M_M"));
}

static void uniform(void) {
	whit_err e;
	whit_recipe r;
	whit_rule b = base();
	CHECK_RC(whit_spec_parse("tq2g64", &b.spec, &e), e);
	for (int emb = 0; emb < 2; emb++) {
		if (!CHECK_RC(whit_recipe_uniform(&r, &b, emb, &e), e)) return;
		const whit_rule *u = match(&r, "x", WHIT_CLASS_LINEAR, &e);
		CHECK(u && !u->keep && u->spec.bits == 2 && u->spec.group == 64 && u->rotation == WHIT_ROT_HADAMARD);
		u = match(&r, "x", WHIT_CLASS_EMBEDDING, &e);
		CHECK(u && u->keep == !emb);
		whit_recipe_free(&r);
	}
	/* Appended behind a file's lines it takes what they leave, and may be idle. */
	if (!CHECK_RC(whit_recipe_parse(&r, "* tq4g64\n", 9, "r.txt", &b, &e), e)) return;
	CHECK_RC(whit_recipe_add_uniform(&r, 0, &e), e);
	const whit_rule *u = match(&r, "x", WHIT_CLASS_LINEAR, &e);
	CHECK(u == &r.rule[0]);
	CHECK_RC(whit_recipe_idle(&r, &e), e);
	char *text = whit_recipe_text(&r);
	CHECK(!strstr(text, "@"));
	whit_free(text);
	whit_recipe_free(&r);
	b.spec.bits = 0;
	CHECK_RC(whit_spec_parse("bf16", &b.spec, &e), e);
	CHECK_FAILS(whit_recipe_uniform(&r, &b, 0, &e), WHIT_EUSAGE, e, "does not fit");
}

static void refused(void) {
	static const struct {
		const char *text, *word;
	} row[] = {{"", "is empty"},
	           {"# nothing\n\n", "is empty"},
	           {"a", "r.txt:1"},
	           {"\n\na b c", "r.txt:3"},
	           {"a tq4g128 x", "key=value"},
	           {"a qt4g128", "qt4g128"},
	           {"a tq4g128 methd=nearest", "did you mean method"},
	           {"a tq4g128 method=turbquant", "did you mean turboquant"},
	           {"a tq4g128 rotation=hadamrd", "did you mean hadamard"},
	           {"a tq4g128 rotation=tq3", "need one of none, hadamard, haar_qr"},
	           {"a tq4g128 scale=least_square", "did you mean least_squares"},
	           {"a tq4g128 density=gausian", "did you mean gaussian"},
	           {"a tq4g128 seed=-1", "seed"},
	           {"a tq4g128 seed=", "seed"},
	           {"a tq4g128 seed=9223372036854775808", "seed"},
	           {"a tq4g128 seed=1x", "seed"},
	           {"a tq4g128 seed=1 seed=1", "once"},
	           {"a keep seed=1", "keep"},
	           {"a int8 scale=raw", "codebook"},
	           {"a int8 density=beta", "codebook"},
	           {"a bf16 method=turboquant", "does not fit"},
	           {"a bf16 method=nearest rotation=hadamard", "plain floats"},
	           {"[a tq4g128", "']'"},
	           {"{a tq4g128", "'}'"},
	           {"a} tq4g128", "'{'"},
	           {"@linaer tq4g128", "did you mean @linear"},
	           {"{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b} keep", "too many alternatives"},
	           {"a tq4g128 seed=1 a=1 a=1 a=1 a=1 a=1 a=1 a=1 a=1", "10 words"}};
	whit_err e;
	whit_recipe r;
	for (int i = 0; i < WHIT_COUNT(row); i++) CHECK_FAILS(parse(&r, row[i].text, &e), WHIT_EUSAGE, e, row[i].word);
	CHECK_FAILS(whit_recipe_parse(&r, "a\0b keep", 8, "r.txt", &(whit_rule){0}, &e), WHIT_EUSAGE, e, "binary");
	CHECK_FAILS(whit_recipe_parse(&r, "a tq4g128", 9, "r.txt", &(whit_rule){.rotation = -1}, &e), WHIT_EUSAGE, e,
	            "method");
	char *wide = whit_alloc(5001);
	memset(wide, 'a', 5000);
	CHECK_FAILS(parse(&r, wide, &e), WHIT_EUSAGE, e, "4095");
	whit_free(wide);

	if (!CHECK_RC(parse(&r, "a tq4g128\na* int8\nnorm int8\nb keep\n", &e), e)) return;
	CHECK(!match(&r, "c", WHIT_CLASS_LINEAR, &e));
	CHECK_FAILS(e.code, WHIT_EUSAGE, e, "no line matches tensor c");
	CHECK_FAILS(whit_recipe_idle(&r, &e), WHIT_EUSAGE, e, "r.txt:1: pattern 'a' matches no tensor");
	CHECK(match(&r, "a", WHIT_CLASS_LINEAR, &e) != NULL);
	CHECK_FAILS(whit_recipe_idle(&r, &e), WHIT_EUSAGE, e, "earlier lines");
	CHECK(match(&r, "ab", WHIT_CLASS_LINEAR, &e) != NULL);
	CHECK(!match(&r, "norm", WHIT_CLASS_NONE, &e) && !e.code);
	CHECK_FAILS(whit_recipe_idle(&r, &e), WHIT_EUSAGE, e, "not quantized");
	whit_recipe_free(&r);
}

TEST_MAIN(conditions, classes_and_text, globs, first_wins, uniform, refused)
