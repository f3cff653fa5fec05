//! Prints standard input as it may stand in each medium.
//!
//! ```text
//! printf 'cart\xe2\x80\xa8kind: Role' | cargo run -p sidecarta-text --example quote
//! ```

#![allow(clippy::print_stdout)] // it is a program

use std::io::Read;

fn main() -> std::io::Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    println!("YAML comment  {}", sidecarta_text::comment(&text));
    println!("YAML string   {}", sidecarta_text::yaml_string(&text));
    println!("terminal      {}", sidecarta_text::line(&text));
    println!("Mermaid       {}", sidecarta_text::mermaid(&text));
    println!("DOT           {}", sidecarta_text::dot(&text));
    println!("chat          {}", sidecarta_text::chat(&text));
    Ok(())
}
