/* gguf_types: every tensor type number that ggml gave out (ggml.md 2), in numerical order. */
#include "formats/gguf.h"

#define NO_SCALES 0, 0
#define REMOVED 0, 0, NULL, NO_SCALES
#define NEVER_STORED 0, 0, NULL, NO_SCALES /* made of activations while a product runs */

static const whit_ggml_type types[] = {
        {0, "F32", 1, 4, "f32", NO_SCALES},
        {1, "F16", 1, 2, "f16", NO_SCALES},
        {2, "Q4_0", 32, 18, "q4_0", 1, 0},
        {3, "Q4_1", 32, 20, "q4_1", 2, 0},
        {4, "Q4_2", REMOVED},
        {5, "Q4_3", REMOVED},
        {6, "Q5_0", 32, 22, "q5_0", 1, 0},
        {7, "Q5_1", 32, 24, "q5_1", 2, 0},
        {8, "Q8_0", 32, 34, "q8_0", 1, 0},
        {9, "Q8_1", NEVER_STORED},
        {10, "Q2_K", 256, 84, "q2_k", 2, 80},
        {11, "Q3_K", 256, 110, "q3_k", 1, 108},
        {12, "Q4_K", 256, 144, "q4_k", 2, 0},
        {13, "Q5_K", 256, 176, "q5_k", 2, 0},
        {14, "Q6_K", 256, 210, "q6_k", 1, 208},
        {15, "Q8_K", NEVER_STORED},
        {16, "IQ2_XXS", 256, 66, NULL, NO_SCALES},
        {17, "IQ2_XS", 256, 74, NULL, NO_SCALES},
        {18, "IQ3_XXS", 256, 98, NULL, NO_SCALES},
        {19, "IQ1_S", 256, 50, NULL, NO_SCALES},
        {20, "IQ4_NL", 32, 18, "iq4_nl", 1, 0},
        {21, "IQ3_S", 256, 110, NULL, NO_SCALES},
        {22, "IQ2_S", 256, 82, NULL, NO_SCALES},
        {23, "IQ4_XS", 256, 136, "iq4_xs", 1, 0},
        {24, "I8", 1, 1, NULL, NO_SCALES},
        {25, "I16", 1, 2, NULL, NO_SCALES},
        {26, "I32", 1, 4, NULL, NO_SCALES},
        {27, "I64", 1, 8, NULL, NO_SCALES},
        {28, "F64", 1, 8, NULL, NO_SCALES},
        {29, "IQ1_M", 256, 56, NULL, NO_SCALES},
        {30, "BF16", 1, 2, "bf16", NO_SCALES},
        {31, "Q4_0_4_4", REMOVED},
        {32, "Q4_0_4_8", REMOVED},
        {33, "Q4_0_8_8", REMOVED},
        {34, "TQ1_0", 256, 54, "tq1_0", 1, 52},
        {35, "TQ2_0", 256, 66, "tq2_0", 1, 64},
        {36, "IQ4_NL_4_4", REMOVED},
        {37, "IQ4_NL_4_8", REMOVED},
        {38, "IQ4_NL_8_8", REMOVED},
        {39, "MXFP4", 32, 17, "mxfp4", WHIT_GGML_E8M0, 0},
        {40, "NVFP4", 64, 36, NULL, NO_SCALES},
        {41, "Q1_0", 128, 18, "q1_0", 1, 0},
        {42, "Q2_0", 64, 18, "q2_0", 1, 0},
};

const whit_ggml_type *whit_ggml_type_of(int id) { return id >= 0 && id < WHIT_COUNT(types) ? &types[id] : NULL; }

const whit_ggml_type *whit_ggml_type_of_spec(const whit_spec *s) {
	for (int64_t i = 0; i < WHIT_COUNT(types); i++)
		if (types[i].format && !strcmp(types[i].format, s->fmt->name)) return &types[i];
	return NULL;
}
