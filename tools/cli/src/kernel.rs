//! `roof kernel list`, `roof kernel fetch` and `roof kernel prune`.

use anyhow::{Context, Result};
use control::fetch;
use control::kernel::{Cache, Kernel as Found, KernelSource, Search};

use crate::args::Kernel;
use crate::progress::Progress;
use crate::say;

pub(crate) fn kernel(task: Kernel) -> Result<u8> {
    match task {
        Kernel::List => Ok(list()),
        Kernel::Prune => prune(),
        Kernel::Fetch { name, update } => fetch_one(name.as_deref(), update),
    }
}

fn list() -> u8 {
    let kernels = Search::of_this_host(None).all();
    if kernels.is_empty() {
        say::line("roof: no kernel yet; `roof kernel fetch` or the first `roof run` fetches one");
        return 0;
    }
    let releases: Vec<&str> =
        kernels.iter().map(|kernel| kernel.release.as_deref().unwrap_or("?")).collect();
    let width = releases.iter().map(|release| release.len()).max().unwrap_or(0);
    for (kernel, release) in kernels.iter().zip(&releases) {
        let held = held(kernel).unwrap_or_default();
        println!("{release:width$}  {:20}  {}{held}", kernel.source.words(), kernel.path.display());
    }
    0
}

/// What the cache has of one of its kernels.
fn held(kernel: &Found) -> Option<String> {
    let release = kernel.release.as_deref().filter(|_| kernel.source == KernelSource::Cache)?;
    let held = Cache::of_this_user().holding(release);
    Some(format!("  ({} MiB with {} modules)", held.bytes.div_ceil(1 << 20), held.modules))
}

fn prune() -> Result<u8> {
    let cache = Cache::of_this_user();
    let trouble = || format!("cannot prune {}", cache.kernels().display());
    let pruned = cache.prune().with_context(trouble)?;
    for release in &pruned.releases {
        say::line(&format!("roof: removed {release}"));
    }
    say::line(&format!("roof: {} MiB freed", pruned.freed >> 20));
    Ok(0)
}

/// What `roof run` would fetch by itself has no name; then any kernel of the cache will do.
fn fetch_one(name: Option<&str>, update: bool) -> Result<u8> {
    let cache = Cache::of_this_user();
    let known = match name {
        Some(name) => cache.find(name),
        None => cache.list().into_iter().next(),
    };
    let kernel = match known.filter(|_| !update) {
        Some(kernel) => {
            say::line("roof: it is in the cache; --update looks for a newer one");
            kernel
        }
        None => {
            let mut progress = Progress::default();
            fetch::fetch(&cache, name, &mut |step| progress.show(step))?
        }
    };
    println!("{}", kernel.path.display());
    Ok(0)
}
