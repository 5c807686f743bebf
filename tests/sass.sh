#!/usr/bin/env bash
# The machine code of every kernel on every architecture (build/cuda/*.o, beside scratch), against tests/sass.txt: what a
# hot loop must hold and what none may. Exit 77 where nvcc built nothing or no disassembler is there.
# usage: sass.sh WHIT DATA SCRATCH [TABLE]
set -uo pipefail
objects=$(dirname "$3")/cuda
table=${4:-$(dirname "$0")/sass.txt}
PATH=$PATH:/usr/local/cuda/bin
ls "$objects"/*.o >/dev/null 2>&1 || { echo "SKIP: sass: no nvcc, or not a release build"; exit 77; }
command -v cuobjdump >/dev/null || { echo "SKIP: sass: no cuobjdump"; exit 77; }

# An object's instructions, counted: architecture, count, operation, kernel. Kept beside the object: disassembling all of
# them takes half a minute of one core.
count() {
	local ops=${1%.o}.ops
	[ "$ops" -nt "$1" ] && [ "$ops" -nt "$2" ] && return
	cuobjdump --dump-sass "$1" >"$ops.sass" && awk '
		/^\tcode for / { arch = $3 }
		/^\t\tFunction : / { name = $3; next }
		/^ +\/\*[0-9a-f]+\*\/ +[@A-Z]/ { op = $2; if (op ~ /^@/) op = $3; sub(/;$/, "", op); n[arch " " op " " name]++ }
		END { for (k in n) { split(k, f, " "); print f[1], n[k], f[2], f[3] } }' "$ops.sass" >"$ops.partial" &&
		mv "$ops.partial" "$ops"
	local rc=$?
	rm -f "$ops.sass"
	return $rc
}
export -f count
printf '%s\0' "$objects"/*.o | xargs -0 -P "$(nproc)" -I{} bash -c 'count "$0" "$1"' {} "$0" ||
	{ echo "FAILED: an object cannot be disassembled"; exit 1; }
for o in "$objects"/*.o; do cat "${o%.o}.ops"; done | c++filt -p | awk -v table="$table" '
	# A row: kernel (a * at the end stands for any rest), architecture or *, what must be there, what may not: extended
	# regular expressions of the whole operation, - = none
	BEGIN {
		split("sm_80 sm_86 sm_89 sm_90a", want, " ")
		while ((getline line < table) > 0) {
			if (line ~ /^#/ || split(line, f, " ") < 4) continue
			n++; kernel[n] = f[1]; arch[n] = f[2]; need[n] = f[3]; never[n] = f[4]
		}
	}
	function fits(pattern, name) {
		if (pattern ~ /\*$/) return index(name, substr(pattern, 1, length(pattern) - 1)) == 1
		return pattern == name
	}
	{
		sm = $1; count = $2; op = $3; name = $0
		sub(/^[^ ]+ [^ ]+ [^ ]+ /, "", name)
		gsub(/\(anonymous namespace\)::/, "", name); gsub(/ /, "", name); sub(/^void/, "", name)
		key = name " on " sm
		if (!(key in row)) {
			for (r = 1; r <= n; r++) if (fits(kernel[r], name) && (arch[r] == "*" || arch[r] == sm)) break
			row[key] = r; kernels++
			if (r > n) { print "FAILED: " key ": no row in sass.txt"; bad++ } else { used[r] = 1; of[r, sm]++; archs[sm] = 1 }
		}
		r = row[key]; size[key] += count
		if (r > n) next
		if (need[r] != "-" && op ~ "^(" need[r] ")$") has[key] += count
		if (never[r] != "-" && op ~ "^(" never[r] ")$") { print "FAILED: " key ": " count " " op ", need none"; bad++ }
	}
	END {
		for (key in row) {
			r = row[key]; sm = key; sub(/.* on /, "", sm)
			if (r > n) continue
			if (need[r] != "-" && !has[key]) { print "FAILED: " key ": no " need[r] " among " size[key] " instructions"; bad++ }
			if (!((r, sm) in low) || size[key] < low[r, sm]) low[r, sm] = size[key]
			if (size[key] > high[r, sm]) high[r, sm] = size[key]
			held[r, sm] += has[key]
		}
		for (r = 1; r <= n; r++) {
			if (!used[r] && kernel[r] != "*") { print "FAILED: sass.txt: " kernel[r] " " arch[r] ": no such kernel"; bad++ }
			for (i = 1; i <= 4; i++) if (of[r, sm = want[i]])
				printf "%-24s %-6s %3d kernels of %d to %d instructions%s\n", kernel[r], sm, of[r, sm], low[r, sm], high[r, sm], need[r] == "-" ? "" : ", " held[r, sm] " of them " need[r]
		}
		print kernels + 0 " kernels by architecture, " bad + 0 " faults in their instructions"
		for (i = 1; i <= 4; i++) if (!archs[want[i]]) { print "FAILED: no kernel for " want[i]; bad++ }
		exit bad || !kernels
	}'
