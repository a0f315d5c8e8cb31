//! Time against size.

/// How long a plan took.
pub struct Point {
    pub family: &'static str,
    pub tensors: f64,
    pub seconds: f64,
}

pub fn draw(points: &[Point]) -> String {
    format!(
        "{}",
        points
            .iter()
            .map(|p| format!("{} {} {}", p.family, p.tensors, p.seconds))
            .collect::<String>()
    )
}
