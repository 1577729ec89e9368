//! Plain integer loops: a sieve (byte stores), a quick sort (unpredictable branches), recursion
//! (calls and returns).

use std::hint::black_box;

use crate::catalogue::Failure;
use crate::random::{Random, fold};

/// Bytes of the sieve: fits a second-level cache.
const SIEVE: usize = 1 << 18;

/// Counts the primes below 2^18, `amount` times.
pub(crate) fn sieve(amount: u64) -> Result<u64, Failure> {
    let mut composite = vec![false; SIEVE];
    let mut total = 0;
    for _ in 0..amount {
        black_box(&mut composite).fill(false);
        total += count_primes(&mut composite);
    }
    Ok(total)
}

fn count_primes(composite: &mut [bool]) -> u64 {
    let mut count = 0;
    for number in 2..composite.len() {
        if composite[number] {
            continue;
        }
        count += 1;
        let mut multiple = number * number;
        while multiple < composite.len() {
            composite[multiple] = true;
            multiple += number;
        }
    }
    count
}

/// Sorts 100,000 numbers, `amount` times.
pub(crate) fn quick_sort(amount: u64) -> Result<u64, Failure> {
    let mut random = Random::new(42);
    let mut sum = 0;
    for _ in 0..amount {
        let mut numbers: Vec<u32> = (0..100_000).map(|_| random.next() as u32).collect();
        sort(&mut numbers);
        sum = fold(sum, u64::from(numbers[500]) << 32 | u64::from(numbers[99_000]));
    }
    Ok(sum)
}

/// Hoare's partition around the middle one of three; the smaller half by recursion.
fn sort(mut numbers: &mut [u32]) {
    while numbers.len() > 12 {
        let middle = numbers.len() / 2;
        let last = numbers.len() - 1;
        let mut three = [numbers[0], numbers[middle], numbers[last]];
        insertion(&mut three);
        let pivot = three[1];
        let (mut low, mut high) = (0, last);
        loop {
            while numbers[low] < pivot {
                low += 1;
            }
            while numbers[high] > pivot {
                high -= 1;
            }
            if low >= high {
                break;
            }
            numbers.swap(low, high);
            low += 1;
            high -= 1;
        }
        let cut = low.max(1).min(last);
        let (left, right) = numbers.split_at_mut(cut);
        numbers = if left.len() < right.len() {
            sort(left);
            right
        } else {
            sort(right);
            left
        };
    }
    insertion(numbers);
}

fn insertion(numbers: &mut [u32]) {
    for end in 1..numbers.len() {
        let value = numbers[end];
        let mut at = end;
        while at > 0 && numbers[at - 1] > value {
            numbers[at] = numbers[at - 1];
            at -= 1;
        }
        numbers[at] = value;
    }
}

/// The Fibonacci number of `amount` by its definition.
pub(crate) fn fibonacci(amount: u64) -> Result<u64, Failure> {
    Ok(fib(amount))
}

#[inline(never)]
fn fib(n: u64) -> u64 {
    if black_box(n) < 2 { n } else { fib(n - 1) + fib(n - 2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_counted() {
        assert_eq!(count_primes(&mut [false; 100]), 25);
        assert_eq!(sieve(2).unwrap(), 2 * 23_000);
    }

    #[test]
    fn numbers_are_sorted() {
        let mut random = Random::new(1);
        for length in [0, 1, 2, 3, 13, 14, 100, 1000] {
            for spread in [3, 1 << 30] {
                let mut numbers: Vec<u32> =
                    (0..length).map(|_| random.below(spread) as u32).collect();
                let mut expected = numbers.clone();
                expected.sort_unstable();
                sort(&mut numbers);
                assert_eq!(numbers, expected);
            }
        }
    }

    #[test]
    fn fibonacci_numbers() {
        assert_eq!(fibonacci(20).unwrap(), 6765);
    }
}
