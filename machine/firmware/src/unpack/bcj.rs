//! The x86 branch filter of XZ, undone in place (xz-file-format.txt 5.3.2; the filter as in the LZMA
//! SDK's specification of BCJ x86).
//!
//! The encoder turned the relative operand of CALL (E8) and JMP (E9) into an absolute one, so that
//! equal targets look alike. An operand counts only when its top byte is 00 or FF, and only when the
//! bytes just before make a false match unlikely: `mask` remembers which of the last bytes were E8
//! or E9. Invariant: works on a block's pieces from its first byte; never touches its last four bytes.

/// The filter's state between two pieces of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct X86Filter {
    /// The position that branches are relative to, of the next piece's first byte.
    position: u32,
    /// Bit i set: the byte i+1 positions back was an opcode. Only the last three matter.
    mask: u32,
    /// How many bytes before the next piece the last opcode lies.
    since: Option<usize>,
}

impl X86Filter {
    /// For a block whose first byte has position `start`.
    pub(super) fn new(start: u32) -> Self {
        Self { position: start, mask: 0, since: None }
    }

    /// Undoes the filter in a piece; gives how many of its bytes are done. The others, at most
    /// four, come again at the start of the next piece, or end the block as they are.
    pub(super) fn decode(&mut self, piece: &mut [u8]) -> usize {
        let Some(limit) = piece.len().checked_sub(4) else { return 0 };
        let mut at = 0;
        // Where the last opcode lies, from `base` bytes before the piece.
        let base = self.since.unwrap_or(0);
        let mut previous = self.since.map(|_| 0);
        while at < limit {
            let Some(found) = piece[at..limit].iter().position(|byte| byte & 0xfe == 0xe8) else {
                at = limit;
                break;
            };
            at += found;
            self.mask = match previous.map(|previous| at + base - previous) {
                Some(distance @ 1..=3) => (self.mask << (distance - 1)) & 7,
                _ => 0,
            };
            previous = Some(at + base);
            if self.mask != 0 && !plausible(piece, at, self.mask) || !is_sign(piece[at + 4]) {
                self.mask = (self.mask << 1) & 7 | 1;
                at += 1;
                continue;
            }
            let operand: [u8; 4] =
                piece[at + 1..at + 5].try_into().expect("the loop ends four bytes early");
            let next = self.position.wrapping_add(at as u32 + 5);
            let value = convert(u32::from_le_bytes(operand), next, self.mask);
            piece[at + 1..at + 5].copy_from_slice(&value.to_le_bytes());
            // The operand is data: opcodes inside it don't count.
            self.mask = 0;
            previous = None;
            at += 5;
        }
        self.position = self.position.wrapping_add(at as u32);
        self.since = previous.map(|previous| at + base - previous);
        at
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
