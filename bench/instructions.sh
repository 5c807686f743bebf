#!/usr/bin/env bash
# Instructions per weight in the hot loop of every packed product (cuda/gemm_packed.cu), counted in machine code: what
# decides 1 to 4 bits, and what a machine without a GPU can tell. The loop is the shortest one that holds
# an HMMA: whole rounds of steps within a pass. An HMMA is 256 weights, eight a lane, for each plane and each eight columns of input.
# int: operations of the integer pipe (64 lanes a clock); fma: those of the FMA pipe, integer multiply-adds among them;
# shared, global: loads; all: issued in total (128 lanes a clock).
# usage: instructions.sh BUILD/cuda/gemm_packed.o
set -euo pipefail
PATH=$PATH:/usr/local/cuda/bin
echo "| decoder, bytes a lane, groups a step | columns | arch | int | fma | shared | global | mma | all |"
echo "|---|---|---|---|---|---|---|---|---|"
cuobjdump --dump-sass "$1" | c++filt -p | awk '
	function hex(s,  i, v) { v = 0; for (i = 1; i <= length(s); i++) v = v * 16 + index("0123456789abcdef", substr(s, i, 1)) - 1; return v }
	function pipe(op) {
		if (op ~ /^HMMA/) return "mma"
		if (op ~ /^LD(S|SM)?(\.|$)/) return "shared" # LD: x is in either
		if (op ~ /^LDG/) return "global"
		if (op ~ /^(FFMA|FMUL|FADD|IMAD|HFMA2|HMUL2|HADD2)/) return "fma"
		if (op ~ /^(LOP3|SHF|IADD3|PRMT|ISETP|LEA|SEL|MOV|VIADD|PLOP3|IABS|FSETP|IMNMX|FSEL|VIMNMX)/) return "int"
		return "rest"
	}
	function done(  i, j, a, b, best, n, c, weights) {
		if (!hmmas || name !~ /packed_kernel/) return
		best = 1e9
		for (i = 1; i <= backs; i++) {
			a = to[i]; b = from[i]
			for (j = 1; j <= hmmas && (hmma[j] < a || hmma[j] > b); j++) ;
			if (j <= hmmas && b - a < best) { best = b - a; begin = a; end = b }
		}
		if (best == 1e9) { print "instructions: " name ": no loop holds its products" > "/dev/stderr"; exit 1 }
		split("", c)
		for (i = 1; i <= n_ops; i++) if (at[i] >= begin && at[i] <= end) { c[kind[i]]++; c["all"]++ }
		match(name, /<.*>/); key = substr(name, RSTART + 1, RLENGTH - 2); gsub(/ /, "", key)
		planes = key ~ /fields<2,2>/ ? 2 : 1
		n = split(key, part, ","); wide = part[n - 1] # decoder, bytes of a lane, eights of columns, groups of a step
		weights = c["mma"] / planes / wide * 8
		sub(/,[0-9]+,[0-9]+$/, "," part[n], key)
		printf "| %s | %d | %s | %.2f | %.2f | %.2f | %.3f | %.3f | %.2f |\n", key, 8 * wide, arch, c["int"] / weights, c["fma"] / weights, c["shared"] / weights, c["global"] / weights, c["mma"] / weights, c["all"] / weights
	}
	/^\tcode for / { done(); arch = $3; hmmas = 0; name = "" }
	/^\t\tFunction : / { done(); sub(/^\t\tFunction : /, ""); name = $0; hmmas = backs = n_ops = 0 }
	/^ +\/\*[0-9a-f]+\*\/ +[@A-Z]/ {
		here = $1; gsub(/[\/*]/, "", here); here = hex(here)
		op = $2; if (op ~ /^@/) op = $3; sub(/;$/, "", op)
		n_ops++; at[n_ops] = here
		kind[n_ops] = pipe(op)
		if (op ~ /^HMMA/) hmma[++hmmas] = here
		if (op == "BRA" && match($0, /0x[0-9a-f]+ *;/)) {
			target = substr($0, RSTART + 2, RLENGTH - 2); sub(/ *;.*/, "", target); target = hex(target)
			if (target < here) { backs++; to[backs] = target; from[backs] = here }
		}
	}
	END { done() }'
