import Glibc

/// A line on standard error that is written over and over; nothing where nobody sees it so.
struct ProgressBar {
    let isOn = isTerminal(STDERR_FILENO)
    private static let width = 30

    /// - Parameter share: 0...1.
    func show(_ share: Double, _ text: String) {
        let filled = Int((share * Double(Self.width)).rounded())
        let bar = String(repeating: "█", count: filled) + String(repeating: "·", count: Self.width - filled)
        send("\r\(bar) \(Int(share * 100)) %  \(text)\u{1B}[K")
    }

    func clear() { send("\r\u{1B}[K") }

    private func send(_ text: String) {
        guard isOn else { return }
        var text = text
        text.withUTF8 { _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
}
