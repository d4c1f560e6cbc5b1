/// How the Python endpoint treats text; clients see its results.
package enum WebLLMText {
    /// White space at both ends removed, as `str.strip()` does.
    package static func trimmed(_ text: String) -> String {
        let scalars = text.unicodeScalars
        guard let first = scalars.first, let last = scalars.last else { return text }
        guard first.isPythonSpace || last.isPythonSpace else { return text }
        guard let start = scalars.firstIndex(where: { !$0.isPythonSpace }),
            let end = scalars.lastIndex(where: { !$0.isPythonSpace })
        else { return "" }
        return String(scalars[start...end])
    }

    /// Words × 1.3, rounded down: the token count of an upstream that gives none.
    package static func estimatedTokens(_ text: String) -> Int {
        var words = 0
        var isInWord = false
        for scalar in text.unicodeScalars {
            let isSpace = scalar.isPythonSpace
            if !isSpace && !isInWord { words += 1 }
            isInWord = !isSpace
        }
        return words * 13 / 10
    }
}

extension Unicode.Scalar {
    /// What Python's `str.isspace` accepts: Unicode White_Space and the four information separators U+001C...U+001F.
    var isPythonSpace: Bool {
        value < 0x80
            ? value == 0x20 || (0x09...0x0D).contains(value) || (0x1C...0x1F).contains(value)
            : properties.isWhitespace
    }
}
