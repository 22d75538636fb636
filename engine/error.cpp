#include "error.h"

#ifndef BITREPLAY_DEVICE
#include <new>
#include <stdexcept>
#endif

namespace bitreplay {

void format_message(char* out, int size, const char* format, std::initializer_list<MessagePart> parts) {
  const MessagePart* part = parts.begin();
  const char* const end = out + size - 1;
  const auto put = [&](char c) {
    if (out < end) *out++ = c;
  };
  for (; *format != '\0'; ++format) {
    if (format[0] != '{' || format[1] != '}' || part == parts.end()) {
      put(*format);
      continue;
    }
    ++format;
    if (part->text != nullptr) {
      for (const char* c = part->text; *c != '\0'; ++c) put(*c);
    } else {
      const bool negative = part->number < 0;
      uint64_t rest = negative ? -static_cast<uint64_t>(part->number) : static_cast<uint64_t>(part->number);
      char digits[20];
      int count = 0;
      do digits[count++] = static_cast<char>('0' + rest % 10);
      while ((rest /= 10) != 0);
      if (negative) put('-');
      while (count > 0) put(digits[--count]);
    }
    ++part;
  }
  *out = '\0';
}

#ifndef BITREPLAY_DEVICE
void fail(Error error, const char* format, std::initializer_list<MessagePart> parts) {
  char text[400];
  format_message(text, sizeof text, format, parts);
  switch (error) {
    case Error::argument:
      throw std::invalid_argument(text);
    case Error::environment:
      throw std::runtime_error(text);
    case Error::cancelled:
      throw Cancelled();
    default:
      break;
  }
  throw std::bad_alloc();
}
#endif

}  // namespace bitreplay
