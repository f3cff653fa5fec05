//! A small assembler for classic BPF: instructions by name, forward jumps to labels, long jumps
//! where a label is far.
//!
//! Owns encoding only (include/uapi/linux/bpf_common.h, Documentation/networking/filter.rst). Must
//! never know what a packet is.

/// An instruction of classic BPF (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to jump over where the test holds.
    pub jt: u8,
    /// Instructions to jump over where it does not.
    pub jf: u8,
    /// Operand.
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
/// Ends the program: `k` bytes are kept.
pub(super) const RETURN: u16 = 0x06;
/// Jumps over `k` instructions.
const JUMP: u16 = 0x05;

/// What a conditional jump asks of A.
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

/// A place in the program that jumps go to; behind all of them, as a classic filter has no loops.
#[derive(Clone, Copy)]
pub(super) struct Label(usize);

enum AsmPiece {
    /// Anything but a jump.
    Plain(u16, u32),
    /// Jumps where the test gives `on`.
    Branch { test: JumpTest, on: bool, to: Label, long: bool },
    /// Jumps always.
    Jump(Label),
}

impl AsmPiece {
    fn size(&self) -> usize {
        if let AsmPiece::Branch { long: true, .. } = self { 2 } else { 1 }
    }
}

/// A program being written.
#[derive(Default)]
pub(super) struct Assembler {
    pieces: Vec<AsmPiece>,
    /// Index of the piece each label is in front of.
    labels: Vec<usize>,
}

impl Assembler {
    /// A label, to be placed later.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(0);
        Label(self.labels.len() - 1)
    }

    /// Places a label here.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = self.pieces.len();
    }

    /// An instruction that does not jump.
    pub(super) fn op(&mut self, code: u16, k: u32) {
        self.pieces.push(AsmPiece::Plain(code, k));
    }

    /// Goes to a label if the test holds.
    pub(super) fn when(&mut self, test: JumpTest, to: Label) {
        self.pieces.push(AsmPiece::Branch { test, on: true, to, long: false });
    }

    /// Goes to a label if the test does not hold.
    pub(super) fn unless(&mut self, test: JumpTest, to: Label) {
        self.pieces.push(AsmPiece::Branch { test, on: false, to, long: false });
    }

    /// Goes to a label.
    pub(super) fn go(&mut self, to: Label) {
        self.pieces.push(AsmPiece::Jump(to));
    }

    /// The program.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        // Lengthening one branch may put the label of another out of reach, so until nothing
        // changes.
        let positions = loop {
            let positions = self.positions();
            if !self.lengthen(&positions) {
                break positions;
            }
        };
        let mut program = Vec::with_capacity(self.pieces.len());
        for (index, piece) in self.pieces.iter().enumerate() {
            // From the piece's last instruction: jumps count from the instruction behind them.
            let distance = |to: Label| self.distance(&positions, index, to);
            match *piece {
                AsmPiece::Plain(code, k) => program.push(Instruction { code, jt: 0, jf: 0, k }),
                AsmPiece::Jump(to) => {
                    program.push(Instruction { code: JUMP, jt: 0, jf: 0, k: distance(to) as u32 })
                }
                AsmPiece::Branch { test, on, to, long } => {
                    let (code, k) = test.encode();
                    // A long branch steps over the long jump in the opposite case.
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

    /// Makes branches long whose label is out of reach of eight bits; whether there were any.
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
