//! Every workload by name, with the amount of work that is about a third of a second on a host.

use crate::{dispatch, float, integer, jit, memory, mix, system, vector};

/// Why a workload gave no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The CPU lacks this feature.
    Unsupported(&'static str),
    /// The system refused.
    System(std::io::Error),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::System(error)
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        Self::System(error.into())
    }
}

/// One workload.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// The amount of work if none is given; the unit is the workload's own.
    pub(crate) amount: u64,
    /// Does that much work; the checksum of its result.
    pub(crate) run: fn(u64) -> Result<u64, Failure>,
}

const fn workload(
    name: &'static str,
    amount: u64,
    run: fn(u64) -> Result<u64, Failure>,
) -> Workload {
    Workload { name, amount, run }
}

/// All workloads: integer, memory, floating point and vectors, system work.
pub(crate) const ALL: &[Workload] = &[
    workload("sieve", 500, integer::sieve),
    workload("qsort", 30, integer::quick_sort),
    workload("fib", 40, integer::fibonacci),
    workload("mix", 1000, mix::run),
    workload("indirect", 50, dispatch::run),
    workload("chase", 20, memory::chase),
    workload("memcpy", 2000, memory::copy),
    workload("matmul", 12, float::matrix_product),
    workload("libm", 4, float::functions),
    workload("x87", 8, vector::x87),
    workload("avx2", 200, vector::avx2),
    workload("aes", 500, vector::aes),
    workload("syscall", 3000, system::calls),
    workload("signal", 200, system::signals),
    workload("fork", 3000, system::forks),
    workload("exec", 600, system::execs),
    workload("pipe", 60, system::ping_pong),
    workload("switch", 60, system::hand_over),
    workload("pagefault", 400, system::page_faults),
    workload("files", 60, system::files),
    workload("jit", 20, jit::run),
];

/// The workload of this name.
pub(crate) fn find(name: &str) -> Option<&'static Workload> {
    ALL.iter().find(|one| one.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_depend_on_the_amount_alone() {
        for one in ALL {
            let run = || match (one.run)(1) {
                Ok(sum) => Some(sum),
                Err(Failure::Unsupported(_)) => None,
                Err(Failure::System(error)) => panic!("{}: {error}", one.name),
            };
            assert_eq!(run(), run(), "{}", one.name);
        }
    }

    #[test]
    fn names_are_unique() {
        for (index, one) in ALL.iter().enumerate() {
            assert!(ALL[..index].iter().all(|other| other.name != one.name), "{}", one.name);
        }
    }
}
