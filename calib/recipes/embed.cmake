# Makes OUT, a C file with the text of every recipe in FILES (name: the file's, without suffix), so that the program
# finds them without an install path.   cmake -DOUT=... "-DFILES=a;b" -P embed.cmake
set(rows "")
foreach(file IN LISTS FILES)
	get_filename_component(name ${file} NAME_WE)
	file(READ ${file} text)
	string(REPLACE "\\" "\\\\" text "${text}")
	string(REPLACE "\"" "\\\"" text "${text}")
	string(REPLACE "\n" "\\n\"\n\t \"" text "${text}")
	string(APPEND rows "\t{\"${name}\",\n\t \"${text}\"},\n")
endforeach()
file(WRITE ${OUT} "/* Made from calib/recipes by embed.cmake. */\n#include \"calib/recipe.h\"\n\nconst whit_preset whit_presets[] = {\n${rows}\t{NULL, NULL},\n};\n")
