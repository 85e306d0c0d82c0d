//! Criterion: how long a part takes, and how many bytes that is in a second; below it, what it allocates.

use criterion::{Criterion, Throughput};

use super::{Look, allocated};

impl Look for Criterion {
    fn at<T>(&mut self, group: &str, name: &str, bytes: usize, mut go: impl FnMut() -> T) {
        let mut wanted = false;
        let mut group = self.benchmark_group(group);
        group.throughput(if bytes > 0 { Throughput::Bytes(bytes as u64) } else { Throughput::Elements(1) });
        group.bench_function(name, |bencher| {
            wanted = true;
            bencher.iter(&mut go);
        });
        group.finish();
        if wanted {
            let (info, goes) = allocated(bytes, go);
            let each = |total: u64| {
                let digits = if total.is_multiple_of(goes) { 0 } else { 3 };
                format!("{:.digits$}", total as f64 / goes as f64)
            };
            println!(
                "{:24}allocations per iteration: {} ({} bytes)\n",
                "",
                each(info.count_total),
                each(info.bytes_total)
            );
        }
    }
}
