//! `include/forebay.h` is what `src/capi` says. `FOREBAY_BLESS=1 cargo test --test header`
//! writes it anew, and the Python package's declarations, which are read from it.

#![allow(clippy::unwrap_used)] // A test that cannot go on panics, in helpers too.

use std::path::Path;

fn generated() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let (major, minor, patch) = (
        env!("CARGO_PKG_VERSION_MAJOR"),
        env!("CARGO_PKG_VERSION_MINOR"),
        env!("CARGO_PKG_VERSION_PATCH"),
    );
    config.after_includes = Some(format!(
        "
// The version of this header; forebay_version() is that of the library.
#define FOREBAY_VERSION_MAJOR {major}
#define FOREBAY_VERSION_MINOR {minor}
#define FOREBAY_VERSION_PATCH {patch}
#define FOREBAY_VERSION \\
    (FOREBAY_VERSION_MAJOR << 16 | FOREBAY_VERSION_MINOR << 8 | FOREBAY_VERSION_PATCH)

// Warns when the result is not looked at.
#if defined(__cplusplus) && __cplusplus >= 201703L
#define FOREBAY_NODISCARD [[nodiscard]]
#elif defined(__GNUC__)
#define FOREBAY_NODISCARD __attribute__((warn_unused_result))
#else
#define FOREBAY_NODISCARD
#endif

// Defaults: `forebay_pool_config config = FOREBAY_POOL_CONFIG_INIT;`, and so on. Both forms set
// struct_size, zero the rest, and are quiet under -Wextra.
#ifdef __cplusplus
#define FOREBAY_INIT(type) [] {{ type value{{}}; value.struct_size = sizeof(type); return value; }}()
#else
#define FOREBAY_INIT(type) {{ .struct_size = sizeof(type) }}
#endif
#define FOREBAY_POOL_CONFIG_INIT FOREBAY_INIT(forebay_pool_config)
#define FOREBAY_POOL_STATISTICS_INIT FOREBAY_INIT(forebay_pool_statistics)
#define FOREBAY_DEFRAG_REPORT_INIT FOREBAY_INIT(forebay_defrag_report)
#define FOREBAY_CACHE_CONFIG_INIT FOREBAY_INIT(forebay_cache_config)
#define FOREBAY_CACHE_STATISTICS_INIT FOREBAY_INIT(forebay_cache_statistics)
#define FOREBAY_CACHE_SIMULATE_OPTIONS_INIT FOREBAY_INIT(forebay_cache_simulate_options)
#define FOREBAY_MEMORY_INFO_INIT FOREBAY_INIT(forebay_memory_info_t)
#define FOREBAY_LIFETIME_SUGGESTIONS_INIT FOREBAY_INIT(forebay_lifetime_suggestions)
#define FOREBAY_PLAN_OPTIONS_INIT FOREBAY_INIT(forebay_plan_options)
#define FOREBAY_PLAN_SUMMARY_INIT FOREBAY_INIT(forebay_plan_summary)
#define FOREBAY_PLAN_USAGE_INIT FOREBAY_INIT(forebay_plan_usage)
#define FOREBAY_PREFETCHER_CONFIG_INIT FOREBAY_INIT(forebay_prefetcher_config)
#define FOREBAY_PREFETCH_STATISTICS_INIT FOREBAY_INIT(forebay_prefetch_statistics)
#define FOREBAY_REPORT_OPTIONS_INIT FOREBAY_INIT(forebay_report_options)
#define FOREBAY_REPLAY_OPTIONS_INIT FOREBAY_INIT(forebay_replay_options)
#define FOREBAY_REPLAY_REPORT_INIT FOREBAY_INIT(forebay_replay_report)
#define FOREBAY_TORCH_STATISTICS_INIT FOREBAY_INIT(forebay_torch_statistics)
"
    ));
    let mut builder = cbindgen::Builder::new().with_config(config);
    for noun in NOUNS {
        builder = builder.with_src(root.join(format!("src/capi/{noun}.rs")));
    }
    for noun in TORCH {
        builder = builder.with_src(root.join(format!("src/torch/{noun}.rs")));
    }
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    let text = String::from_utf8(text).unwrap();
    // What is a promise of the caller in Rust is prose in C.
    text.replace("# Safety", "The caller's part:")
}

/// In the order of the header.
const NOUNS: [&str; 17] = [
    "status",
    "log",
    "stream",
    "pool",
    "block",
    "share",
    "graph",
    "stats",
    "trace",
    "cache",
    "cache_simulate",
    "lifetime",
    "plan",
    "planned",
    "report",
    "prefetch",
    "monitor",
];

/// PyTorch's door, behind them.
const TORCH: [&str; 5] = ["observer", "control", "allocator", "segment", "hooks"];

#[test]
fn the_header_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/forebay.h");
    let generated = generated();
    if std::env::var_os("FOREBAY_BLESS").is_some() {
        std::fs::write(&path, &generated).unwrap();
        python_abi(&[]);
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(
        committed == generated,
        "include/forebay.h is not what src/capi says; run: FOREBAY_BLESS=1 cargo test --test header"
    );
    python_abi(&["--check"]);
}

/// `python/forebay/_abi.py` is what the header says.
fn python_abi(arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/python_abi.py");
    let status = std::process::Command::new("python3").arg(script).args(arguments).status();
    assert!(status.unwrap().success());
}
