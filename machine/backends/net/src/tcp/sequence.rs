//! Sequence numbers: positions modulo 2^32 (RFC 9293, section 3.4).

pub(super) type Sequence = u32;

/// How far `a` lies after `b`; negative if before.
pub(super) fn after(a: Sequence, b: Sequence) -> i32 {
    a.wrapping_sub(b) as i32
}

/// `count` positions further; a count never reaches 2^31.
pub(super) fn plus(a: Sequence, count: usize) -> Sequence {
    a.wrapping_add(count as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_wrap() {
        assert_eq!((after(3, u32::MAX), after(u32::MAX, 3)), (4, -4));
        assert_eq!(plus(u32::MAX, 2), 1);
    }
}
