//! The x86 branch filter of XZ, undone in place (xz-file-format.txt 5.3.2; the filter as in the LZMA
//! SDK's specification of BCJ x86).
//!
//! The encoder turned the relative operand of CALL (E8) and JMP (E9) into an absolute one, so that
//! equal targets look alike. An operand counts only when its top byte is 00 or FF, and only when the
//! bytes just before make a false match unlikely: `mask` remembers which of the last bytes were E8
//! or E9. Invariant: works on the block from its first byte; never touches the last four bytes.

/// Undoes the filter over one block, whose first byte has position `start`.
pub(super) fn decode_x86(block: &mut [u8], start: u32) {
    let Some(limit) = block.len().checked_sub(4) else { return };
    // Bit i set: the byte i+1 positions back was an opcode. Only the last three matter.
    let mut mask = 0u32;
    let mut previous: Option<usize> = None;
    let mut at = 0;
    while at < limit {
        let Some(found) = block[at..limit].iter().position(|byte| byte & 0xfe == 0xe8) else {
            return;
        };
        at += found;
        mask = match previous.map(|previous| at - previous) {
            Some(distance @ 1..=3) => (mask << (distance - 1)) & 7,
            _ => 0,
        };
        previous = Some(at);
        if mask != 0 && !plausible(block, at, mask) {
            mask = (mask << 1) & 7 | 1;
            at += 1;
            continue;
        }
        if !is_sign(block[at + 4]) {
            mask = (mask << 1) & 7 | 1;
            at += 1;
            continue;
        }
        let operand: [u8; 4] =
            block[at + 1..at + 5].try_into().expect("the loop ends four bytes early");
        let value = convert(u32::from_le_bytes(operand), start.wrapping_add(at as u32 + 5), mask);
        block[at + 1..at + 5].copy_from_slice(&value.to_le_bytes());
        // The operand is data: opcodes inside it don't count.
        mask = 0;
        previous = None;
        at += 5;
    }
}

fn is_sign(byte: u8) -> bool {
    byte == 0 || byte == 0xff
}

/// Bytes of the operand that an overlapping, earlier opcode would have used as its top byte.
const MASK_TO_BYTE: [usize; 8] = [0, 1, 2, 2, 3, 3, 3, 3];

fn plausible(block: &[u8], at: usize, mask: u32) -> bool {
    const ALLOWED: [bool; 8] = [true, true, true, false, true, false, false, false];
    ALLOWED[mask as usize] && !is_sign(block[at + 4 - MASK_TO_BYTE[mask as usize]])
}

/// Absolute to relative. When the result looks like an operand of the overlapping instruction, the
/// encoder went a second round with the low bits flipped; one such round always suffices, since
/// `plausible` made sure that the operand's own byte there is no sign.
fn convert(operand: u32, next: u32, mask: u32) -> u32 {
    let mut value = operand.wrapping_sub(next);
    if mask != 0 {
        let shift = MASK_TO_BYTE[mask as usize] * 8;
        if is_sign((value >> (24 - shift)) as u8) {
            let low = ((1u64 << (32 - shift)) - 1) as u32;
            value = (value ^ low).wrapping_sub(next);
        }
    }
    // Sign-extend from bit 24.
    (((value << 7) as i32) >> 7) as u32
}
