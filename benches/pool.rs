//! A pair of calls, by size: `cargo bench --bench pool [-- 'pair/64']`. For a look while
//! working; what is held to is `scripts/budget.sh` and `make bench-pool`.

#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use forebay::order::Stream;
use forebay::pool::{Config, Pool};

const SIZES: [usize; 6] = [64, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20];

fn pairs(criterion: &mut Criterion) {
    let config = Config { max_bytes: 1 << 30, ..Config::default() };
    let pool = Pool::on_host(&config).unwrap();
    let mut group = criterion.benchmark_group("pair");
    for size in SIZES {
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, &size| {
            bencher.iter(|| {
                let address = pool.alloc(size, Stream::DEFAULT).unwrap();
                pool.free(address, Stream::DEFAULT).unwrap();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pairs);
criterion_main!(benches);
