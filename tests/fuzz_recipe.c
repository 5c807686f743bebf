/* fuzz_recipe: any bytes as a recipe. What parses must match names without trouble and print to a text that
 * parses back to the same text. */
#include <stdlib.h>
#include "calib/recipe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
	whit_recipe r, again;
	whit_err e;
	whit_rule base = {.method = whit_methods[0], .rotation = -1, .seed = 42};
	if (whit_recipe_parse(&r, (const char *)data, n, "fuzz", &base, &e)) return 0;
	static const char *const names[] = {"model.layers.0.mlp.down_proj.weight",
	                                    "model.layers.31.self_attn.q_norm.weight",
	                                    "model.embed_tokens.weight",
	                                    "",
	                                    "]",
	                                    "{,}"};
	for (int i = 0; i < WHIT_COUNT(names); i++)
		for (int cls = 0; cls < 4; cls++)
			whit_recipe_match(&r,
			                  &(whit_subject){.name = names[i],
			                                  .cls = cls,
			                                  .layer = i - 1,
			                                  .layers = 7,
			                                  .gqa = 2,
			                                  .arch = "llama"},
			                  &e);
	whit_recipe_idle(&r, &e);
	char *text = whit_recipe_text(&r), *text2;
	if (whit_recipe_parse(&again, text, strlen(text), "again", &base, &e)) abort();
	text2 = whit_recipe_text(&again);
	if (strcmp(text, text2)) abort();
	whit_free(text);
	whit_free(text2);
	whit_recipe_free(&again);
	whit_recipe_free(&r);
	return 0;
}
