//! Writes the inputs that a target begins with: `seeds TARGET DIRECTORY`. Without arguments it
//! prints the names of all targets.

#![allow(clippy::print_stdout)]

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let Some(name) = args.next() else {
        sidecarta_fuzz::TARGETS.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    };
    let Some(dir) = args.next() else {
        return Err(std::io::Error::other("usage: seeds [TARGET DIRECTORY]"));
    };
    std::fs::create_dir_all(&dir)?;
    for (i, seed) in sidecarta_fuzz::seeds(&name).iter().enumerate() {
        std::fs::write(format!("{dir}/seed-{i}"), seed)?;
    }
    Ok(())
}
