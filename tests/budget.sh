#!/usr/bin/env bash
# Registers, static shared bytes, spills and stack of every kernel on every architecture, as ptxas told the build
# (build/cuda/*.ptxas, beside scratch), against the limits of tests/budget.txt. Exit 77 where nvcc built nothing.
# usage: budget.sh WHIT DATA SCRATCH
set -u
logs=$(dirname "$3")/cuda
ls "$logs"/*.ptxas >/dev/null 2>&1 || { echo "SKIP: budget: no nvcc, or not a release build"; exit 77; }
cat "$logs"/*.ptxas | c++filt -p | awk -v table="$(dirname "$0")/budget.txt" '
	# A limit row: kernel (a * at the end stands for any rest), architecture or *, registers, shared, spill, stack
	BEGIN {
		while ((getline line < table) > 0) {
			if (line ~ /^#/ || split(line, f, " ") < 6) continue
			n++; kernel[n] = f[1]; arch[n] = f[2]; for (i = 3; i <= 6; i++) limit[n, i] = f[i]
		}
		split("x x registers shared spill stack", label, " ")
	}
	function number(before, line) { return match(line, "[0-9]+ (bytes )?" before) ? substr(line, RSTART) + 0 : 0 }
	function matches(pattern, name) {
		if (pattern ~ /\*$/) return index(name, substr(pattern, 1, length(pattern) - 1)) == 1
		return pattern == name
	}
	/Compiling entry function/ {
		match($0, /for .sm_[0-9a-z]+/); sm = substr($0, RSTART + 5, RLENGTH - 5)
		match($0, /entry function .[^\047]+/); name = substr($0, RSTART + 16, RLENGTH - 16)
		gsub(/\(anonymous namespace\)::/, "", name); gsub(/ /, "", name); sub(/^void/, "", name)
		got[6] = got[5] = 0
	}
	/stack frame/ { got[6] = number("stack frame"  , $0); got[5] = number("spill stores", $0) + number("spill loads", $0) }
	/Used [0-9]+ registers/ {
		match($0, /Used [0-9]+/); got[3] = substr($0, RSTART + 5, RLENGTH - 5) + 0; got[4] = number("smem", $0)
		for (r = 1; r <= n; r++) if (matches(kernel[r], name) && (arch[r] == "*" || arch[r] == sm)) break
		kernels++
		if (r > n) { print "FAILED: " name " on " sm ": no row in budget.txt; uses " got[3], got[4], got[5], got[6]; bad++; next }
		used[r] = 1
		for (i = 3; i <= 6; i++) if (!(got[i] <= limit[r, i])) {
			print "FAILED: " name " on " sm ": " label[i] " is " got[i] ", the budget is " limit[r, i]; bad++
		}
	}
	END {
		for (r = 1; r <= n; r++) if (!used[r]) { print "FAILED: budget.txt: " kernel[r] " " arch[r] ": no such kernel"; bad++ }
		print kernels + 0 " kernels by architecture, " bad + 0 " beyond their budget"
		exit bad || !kernels
	}'
