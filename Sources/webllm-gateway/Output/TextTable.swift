/// Columns as wide as their widest cell, two spaces apart.
struct TextTable {
    private var rows: [(cells: [String], style: Style)]

    init(_ header: [String]) { rows = [(header, .faint)] }

    mutating func add(_ cells: [String], _ style: Style = .plain) {
        rows.append((cells.map { $0.printable() }, style))
    }

    var lines: [String] {
        let columns = rows.map(\.cells.count).max() ?? 0
        let widths = (0..<columns).map { column in
            rows.map { $0.cells.count > column ? $0.cells[column].count : 0 }.max() ?? 0
        }
        return rows.map { cells, style in
            let line = cells.enumerated().map { index, cell in
                index == cells.count - 1 ? cell : cell.padded(to: widths[index])
            }.joined(separator: "  ")
            return style.paint(line)
        }
    }
}

extension String {
    func padded(to width: Int) -> String {
        count >= width ? self : self + String(repeating: " ", count: width - count)
    }
}
