fn main() {
    let url = std::env::args().nth(1).expect("a URL");
    print!("{}", ureq::get(&url).call().expect("an answer").into_string().expect("text"));
}
