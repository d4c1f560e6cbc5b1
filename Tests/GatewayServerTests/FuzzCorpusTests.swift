import Foundation
import FuzzTargets
import Testing

/// The fuzzers' corpora, run once: what was found once stays mended.
struct FuzzCorpusTests {
    private static let folder = Bundle.module.resourceURL!.appending(path: "FuzzCorpus")

    @Test(arguments: FuzzTarget.allCases)
    func everyInputOfTheCorpus(_ target: FuzzTarget) throws {
        let folder = Self.folder.appending(path: target.rawValue)
        let files = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
        #expect(!files.isEmpty)
        for file in files { target.run(Array(try Data(contentsOf: file))) }
    }
}
