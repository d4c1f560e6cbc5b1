import Glibc

/// Whether a person reads there, on a terminal that knows escape sequences.
func isTerminal(_ descriptor: Int32) -> Bool { isatty(descriptor) == 1 && environment["TERM"] != "dumb" }

/// Colours, only where a person reads them.
enum Style {
    case plain
    case good
    case bad
    case faint
    case bold

    private static let isOn = isTerminal(STDOUT_FILENO) && (environment["NO_COLOR"] ?? "").isEmpty

    func paint(_ text: String) -> String { Self.isOn && self != .plain ? "\u{1B}[\(code)m\(text)\u{1B}[0m" : text }

    private var code: String {
        switch self {
        case .plain: "0"
        case .bold: "1"
        case .faint: "2"
        case .bad: "31"
        case .good: "32"
        }
    }
}
