import Glibc

/// A terminal's other screen, drawn over and over without flicker, each time in one write; leaving it brings back what was there.
struct Screen: Sendable {
    /// Other screen, no cursor, and lines that are too long are cut, not wrapped.
    init() { printText("\u{1B}[?1049h\u{1B}[?25l\u{1B}[?7l") }

    func close() { printText("\u{1B}[?7h\u{1B}[?25h\u{1B}[?1049l") }

    /// Each line is drawn over the old one, and what is left of that is erased.
    func show(_ lines: [String]) {
        let shown = lines.prefix(Self.height).map { $0 + "\u{1B}[K" }.joined(separator: "\r\n")
        printText("\u{1B}[H" + shown + "\u{1B}[J")
    }

    private static var height: Int {
        var size = winsize()
        return ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0 && size.ws_row > 0 ? Int(size.ws_row) : 24
    }
}
