#include "host/tok.h"
int whit_tok_put_gguf(const char *path, int64_t rows, whit_gguf_out *o, whit_err *e) { (void)path; (void)rows; (void)o; return whit_fail(e, WHIT_EINTERNAL, "later"); }
