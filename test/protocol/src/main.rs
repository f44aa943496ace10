fn main() {
    let depth: usize = std::env::args().nth(1).map_or(10, |a| a.parse().unwrap_or(0));
    for c in protocol::explore::CONFIGURATIONS {
        let t = std::time::Instant::now();
        let r = protocol::explore::explore(*c, None, depth, 2_000_000);
        println!("{}: {} states {} reached depth {} complete {} {:?}", c.name, r.states, r.reached, r.depth, r.is_complete, t.elapsed());
        if let Some(b) = r.broken { println!("{b}"); }
    }
}
