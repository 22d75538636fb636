#include "file.h"

#include <cstring>

#include "random.h"
#include "sha256.h"

namespace bitreplay {
namespace {

constexpr char kZeros[] = "0000000000000000000000000000000000000000000000000000000000000000";
static_assert(sizeof kZeros == 65);

// Sums of these stand for sets of offsets.
uint64_t seam(uint64_t offset) { return mix(offset + 0x9e3779b97f4a7c15ULL); }

}  // namespace

File::File(const void* content, size_t size, const char* kind) : content_(static_cast<const uint8_t*>(content)), size_(size), kind_(kind) {
  const auto check = [&](bool condition, const char* what) {
    if (!condition) fail(Error::format, "{}: {}", {kind, what});
  };
  check(size >= 8, "it is cut short");
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | content_[i];
  check(length <= size - 8, "it is cut short, or none");
  check(length <= kMaxHeader, "its header is too long");
  start_ = 8 + static_cast<size_t>(length);
  const auto* text = reinterpret_cast<const char*>(content_);
  check(Json::parse({text + 8, text + start_}, header_) && header_.is_object(), "its header is no JSON");
  words_ = header_.find("__metadata__");
  check(words_.is_object(), "it has no metadata");
  for (Entries words(words_); words.next();) check(words.value.is_string(), "its metadata are no texts");
  check(words_.find("bitreplay").equals(kind), "it is another file");
  check(words_.find("version").equals("1"), "expected version 1");
  const Json digest = words_.find("digest");
  check(digest.is_string() && digest.copy(digest_, sizeof digest_) == sizeof digest_, "it has no digest");
}

void File::verify() const {
  const uint8_t* at = content_ + 8;
  const uint8_t* const last = content_ + size_ - sizeof digest_;
  while (at <= last && std::memcmp(at, digest_, sizeof digest_) != 0) ++at;
  if (at > last) fail(Error::format, "{}: its digest is not written out", {kind_});
  Sha256 sha;
  sha.add(content_, static_cast<size_t>(at - content_));
  sha.add(kZeros, sizeof digest_);
  at += sizeof digest_;
  sha.add(at, static_cast<size_t>(content_ + size_ - at));
  char actual[sizeof digest_];
  sha.hex(actual);
  if (std::memcmp(actual, digest_, sizeof digest_) != 0) fail(Error::format, "{}: its content does not match its digest", {kind_});
}

Json File::json(const char* key) const {
  Json value;
  const Json text = words_.find(key);
  if (!text.is_string() || !Json::parse(text.string(), value)) fail(Error::format, "{}: {}: expected JSON", {kind_, key});
  return value;
}

bool File::describe(const Json& entry, const char* dtype, Place& place) const {
  size_t fields = 0;
  for (Entries members(entry); members.next();) ++fields;
  return fields == 3 && entry.find("dtype").equals(dtype) && entry.find("shape").is_list() && place_of(entry, place);
}

bool File::place_of(const Json& entry, Place& place) const {
  const Json offsets = entry.find("data_offsets");
  if (!offsets.is_list()) return false;
  Entries both(offsets);
  int64_t begin = 0, end = 0;
  const auto most = static_cast<int64_t>(size_ - start_);
  const bool fit = both.next() && both.value.whole(0, most, begin) && both.next() && both.value.whole(begin, most, end) && !both.next();
  place = {static_cast<uint64_t>(begin), static_cast<uint64_t>(end)};
  return fit;
}

bool File::is_seam(uint64_t offset) const {
  if (offset == size_ - start_) return true;
  for (Entries entries(header_); entries.next();) {
    Place place{};
    if (place_of(entries.value, place) && place.begin == offset && place.end > offset) return true;
  }
  return false;
}

void File::note(const Place& place) {
  ++taken_;
  bytes_ += place.end - place.begin;
  seams_ += seam(place.begin) - seam(place.end);
}

const uint8_t* File::take_raw(const char* name, const char* dtype, size_t value, std::initializer_list<int64_t> shape) {
  const Json entry = header_.find(name);
  if (!entry.exists()) fail(Error::format, "{}: tensor {} is missing", {kind_, name});
  Place place{};
  bool fit = describe(entry, dtype, place);
  uint64_t bytes = value;
  Entries sizes(entry.find("shape"));
  for (const int64_t expected : shape) {
    int64_t size = 0;
    fit = fit && sizes.next() && sizes.value.whole(expected, expected, size);
    bytes *= static_cast<uint64_t>(expected);
  }
  if (!fit || sizes.next() || place.end - place.begin != bytes || (start_ + place.begin) % value != 0) {
    fail(Error::format, "{}: tensor {}: expected another type, shape or place", {kind_, name});
  }
  note(place);
  return content_ + start_ + place.begin;
}

bool File::has_dtype(const char* name, const char* dtype) const { return header_.find(name).find("dtype").equals(dtype); }

std::span<const uint8_t> File::take_bytes(const char* name) {
  const Json entry = header_.find(name);
  if (!entry.exists()) return {};
  Place place{};
  if (!describe(entry, kDtype<uint8_t>, place) || length(name) != static_cast<int64_t>(place.end - place.begin)) {
    fail(Error::format, "{}: tensor {}: expected bytes", {kind_, name});
  }
  note(place);
  return {content_ + start_ + place.begin, static_cast<size_t>(place.end - place.begin)};
}

int64_t File::length(const char* name) const {
  Entries sizes(header_.find(name).find("shape"));
  int64_t length = 0;
  return sizes.next() && sizes.value.whole(0, int64_t{1} << 40, length) && !sizes.next() ? length : 0;
}

void File::finish() const {
  // Pieces lie one behind the other, from the first byte to the last, just where as many begin as end at every offset, but for the two
  // outer ones: each piece goes forward, so they make one way.
  const uint64_t all = size_ - start_;
  bool fit = bytes_ == all && seams_ == seam(0) - seam(all);
  size_t tensors = 0;
  for (Entries entries(header_); entries.next();) tensors += !entries.key.equals("__metadata__");
  if (tensors != taken_) fail(Error::format, "{}: expected no further tensor", {kind_});  // so the search below is a short one
  for (Entries entries(header_); fit && entries.next();) {
    Place place{};
    if (!entries.key.equals("__metadata__") && place_of(entries.value, place) && place.begin == place.end) fit = is_seam(place.begin);
  }
  if (!fit) fail(Error::format, "{}: its tensors leave holes or overlap", {kind_});
}

}  // namespace bitreplay
