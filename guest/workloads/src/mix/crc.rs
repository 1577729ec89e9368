//! CRC-16/XMODEM, bit by bit: shifts and branches on data.

/// Feeds two bytes, high first.
pub(super) fn update(sum: u16, value: u16) -> u16 {
    value.to_be_bytes().into_iter().fold(sum, byte)
}

/// Feeds one byte.
pub(super) fn byte(mut sum: u16, value: u8) -> u16 {
    sum ^= u16::from(value) << 8;
    for _ in 0..8 {
        sum = if sum & 0x8000 != 0 { sum << 1 ^ 0x1021 } else { sum << 1 };
    }
    sum
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_is_the_catalogue_s() {
        assert_eq!(b"123456789".iter().fold(0, |sum, value| super::byte(sum, *value)), 0x31c3);
    }
}
