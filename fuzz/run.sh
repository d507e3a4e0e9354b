#!/bin/sh
# Fuzzes each target for a while: fuzz/run.sh [SECONDS [TARGET...]]
#
# Needs a C++ compiler (libFuzzer) and nothing else: coverage and the address sanitizer are part of every toolchain, only
# the flag for the sanitizer is not stable. A finding ends the run with an error and leaves its input in artifacts/.
# KEEP=1 replaces seeds/TARGET by the fewest inputs, found so far, that reach what all of them reach.
set -eu
seconds=${1:-5}
[ $# -gt 0 ] && shift
targets=${*:-iommu_requests ring_images ninep_frame ninep_session vfio_user_messages}
cd "$(dirname "$0")"
host=$(rustc -vV | sed -n 's/^host: //p')
out=${CARGO_TARGET_DIR:-target}/$host/release
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module -Ccodegen-units=1 \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
cargo build --release --bins --target "$host"
mkdir -p artifacts
for target in $targets; do
    mkdir -p "corpus/$target" "seeds/$target"
    echo "== $target, $seconds s"
    # One run with an empty input writes the seeds that the code makes.
    CALGARY_FUZZ_SEEDS="corpus/$target" "$out/$target" -runs=1 >/dev/null 2>&1
    "$out/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=32768 -print_final_stats=1 \
        -artifact_prefix="artifacts/$target-" ${FUZZ_OPTIONS:-} "corpus/$target" "seeds/$target"
    if [ -n "${KEEP:-}" ]; then
        # Whole memory images are large; what only they reach, the seeds that the code makes reach too.
        rm -rf "seeds/$target.new"
        mkdir "seeds/$target.new"
        "$out/$target" -set_cover_merge=1 -rss_limit_mb=2048 -max_len=4096 "seeds/$target.new" "seeds/$target" \
            "corpus/$target" 2>&1 | tail -n 1
        rm -rf "seeds/$target"
        mv "seeds/$target.new" "seeds/$target"
    fi
done
