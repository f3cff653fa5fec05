//! A small assembler for classic BPF: instructions by name, forward jumps to labels, and long jumps
//! where a label is far.
//!
//! Owns the encoding (include/uapi/linux/bpf_common.h, Documentation/networking/filter.rst). Must
//! never contain anything about packets.

/// An instruction of classic BPF (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation (`BPF_LD` and others).
    pub code: u16,
    /// Instructions to skip where the test is true.
    pub jt: u8,
    /// Instructions to skip where the test is false.
    pub jf: u8,
    /// Operand of the operation.
    pub k: u32,
}

/// A ← 32 bits at `k`.
pub(super) const LOAD_WORD: u16 = 0x20;
/// A ← 16 bits at `k`.
pub(super) const LOAD_HALF: u16 = 0x28;
/// A ← 8 bits at `k`.
pub(super) const LOAD_BYTE: u16 = 0x30;
/// A ← 32 bits at X + `k`.
pub(super) const LOAD_WORD_X: u16 = 0x40;
/// A ← 16 bits at X + `k`.
pub(super) const LOAD_HALF_X: u16 = 0x48;
/// A ← 8 bits at X + `k`.
pub(super) const LOAD_BYTE_X: u16 = 0x50;
/// A ← scratch word `k`.
pub(super) const LOAD: u16 = 0x60;
/// A ← length of the packet.
pub(super) const LOAD_LENGTH: u16 = 0x80;
/// X ← `k`.
pub(super) const SET_X: u16 = 0x01;
/// X ← scratch word `k`.
pub(super) const LOAD_X: u16 = 0x61;
/// X ← length of the packet.
pub(super) const LOAD_LENGTH_X: u16 = 0x81;
/// Scratch word `k` ← A.
pub(super) const STORE: u16 = 0x02;
/// Scratch word `k` ← X.
pub(super) const STORE_X: u16 = 0x03;
/// A ← A + `k`.
pub(super) const ADD: u16 = 0x04;
/// A ← A + X.
pub(super) const ADD_X: u16 = 0x0c;
/// A ← A − X.
pub(super) const SUBTRACT_X: u16 = 0x1c;
/// A ← A & `k`.
pub(super) const AND: u16 = 0x54;
/// A ← A << `k`.
pub(super) const SHIFT_LEFT: u16 = 0x64;
/// A ← A >> `k`.
pub(super) const SHIFT_RIGHT: u16 = 0x74;
/// A ← A mod `k`.
pub(super) const MODULO: u16 = 0x94;
/// X ← A.
pub(super) const A_TO_X: u16 = 0x07;
/// A ← X.
pub(super) const X_TO_A: u16 = 0x87;
/// Ends the program: `k` bytes of the frame are passed.
pub(super) const RETURN: u16 = 0x06;
/// Skips `k` instructions.
const JUMP: u16 = 0x05;

/// Test of A in a conditional jump.
#[derive(Clone, Copy)]
pub(super) enum JumpTest {
    /// A = k.
    Is(u32),
    /// A ≥ k, unsigned.
    AtLeast(u32),
    /// A & k ≠ 0.
    AnyBit(u32),
    /// A > X, unsigned.
    AboveX,
}

impl JumpTest {
    fn encode(self) -> (u16, u32) {
        match self {
            JumpTest::Is(k) => (0x15, k),
            JumpTest::AtLeast(k) => (0x35, k),
            JumpTest::AnyBit(k) => (0x45, k),
            JumpTest::AboveX => (0x2d, 0),
        }
    }
}

/// A target of jumps. It is after all jumps to it, since a classic filter has no loops.
#[derive(Clone, Copy)]
pub(super) struct Label(usize);

/// An instruction before its encoding.
enum AsmPiece {
    /// An instruction that does not jump: operation and operand.
    Plain(u16, u32),
    /// Jumps where the result of the test is `on`.
    Branch { test: JumpTest, on: bool, to: Label, long: bool },
    /// Jumps to a label in any case.
    Jump(Label),
}

impl AsmPiece {
    fn size(&self) -> usize {
        if let AsmPiece::Branch { long: true, .. } = self { 2 } else { 1 }
    }
}

/// A program that is being written.
#[derive(Default)]
pub(super) struct Assembler {
    pieces: Vec<AsmPiece>,
    /// Index of the piece each label is in front of.
    labels: Vec<usize>,
}

impl Assembler {
    /// A new label. It must be placed later.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(0);
        Label(self.labels.len() - 1)
    }

    /// Places a label here.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = self.pieces.len();
    }

    /// Adds an instruction that does not jump.
    pub(super) fn op(&mut self, code: u16, k: u32) {
        self.pieces.push(AsmPiece::Plain(code, k));
    }

    /// Adds a jump to a label where the test is true.
    pub(super) fn when(&mut self, test: JumpTest, to: Label) {
        self.pieces.push(AsmPiece::Branch { test, on: true, to, long: false });
    }

    /// Adds a jump to a label where the test is false.
    pub(super) fn unless(&mut self, test: JumpTest, to: Label) {
        self.pieces.push(AsmPiece::Branch { test, on: false, to, long: false });
    }

    /// Adds a jump to a label in any case.
    pub(super) fn go(&mut self, to: Label) {
        self.pieces.push(AsmPiece::Jump(to));
    }

    /// Encodes the program.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        // A longer branch may move the label of another one out of reach. So this is repeated until
        // nothing changes.
        let positions = loop {
            let positions = self.positions();
            if !self.lengthen(&positions) {
                break positions;
            }
        };
        let mut program = Vec::with_capacity(self.pieces.len());
        for (index, piece) in self.pieces.iter().enumerate() {
            // Counted from the last instruction of the piece: jumps count from the instruction
            // after them.
            let distance = |to: Label| self.distance(&positions, index, to);
            match *piece {
                AsmPiece::Plain(code, k) => program.push(Instruction { code, jt: 0, jf: 0, k }),
                AsmPiece::Jump(to) => {
                    program.push(Instruction { code: JUMP, jt: 0, jf: 0, k: distance(to) as u32 })
                }
                AsmPiece::Branch { test, on, to, long } => {
                    let (code, k) = test.encode();
                    // In the opposite case, a long branch skips the long jump.
                    let (taken, not) = if long { (0, 1) } else { (distance(to) as u8, 0) };
                    let (jt, jf) = if on { (taken, not) } else { (not, taken) };
                    program.push(Instruction { code, jt, jf, k });
                    if long {
                        program.push(Instruction {
                            code: JUMP,
                            jt: 0,
                            jf: 0,
                            k: distance(to) as u32,
                        });
                    }
                }
            }
        }
        program
    }

    /// Index of the first instruction of each piece, and of the end.
    fn positions(&self) -> Vec<usize> {
        let mut at = 0;
        let mut positions = Vec::with_capacity(self.pieces.len() + 1);
        for piece in &self.pieces {
            positions.push(at);
            at += piece.size();
        }
        positions.push(at);
        positions
    }

    fn distance(&self, positions: &[usize], from: usize, to: Label) -> usize {
        let target = self.labels[to.0];
        debug_assert!(target > from, "jumps go forward");
        positions[target].saturating_sub(positions[from + 1])
    }

    /// Makes branches long whose label is out of reach of eight bits. True where there were any.
    fn lengthen(&mut self, positions: &[usize]) -> bool {
        let far: Vec<usize> = (0..self.pieces.len())
            .filter(|&i| match self.pieces[i] {
                AsmPiece::Branch { to, long: false, .. } => {
                    self.distance(positions, i, to) > usize::from(u8::MAX)
                }
                _ => false,
            })
            .collect();
        for &i in &far {
            if let AsmPiece::Branch { long, .. } = &mut self.pieces[i] {
                *long = true;
            }
        }
        !far.is_empty()
    }
}
