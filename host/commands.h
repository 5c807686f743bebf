/* commands: one function per subcommand, one row each in commands.def. */
#ifndef WHIT_COMMANDS_H
#define WHIT_COMMANDS_H
#include "host/options.h"

#define COMMAND(name, summary) int whit_cmd_##name(int argc, char **argv, whit_err *e);
#include "host/commands.def"
#undef COMMAND
#endif
