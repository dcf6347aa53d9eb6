/* SHA-256 (FIPS 180-4). */
#ifndef SEPIFY_SHA256_H
#define SEPIFY_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  uint32_t state[8];
  uint64_t length; /* bytes so far */
  unsigned char block[64];
} SepifySha256;

void sepify_sha256_start(SepifySha256 *sum);
void sepify_sha256_add(SepifySha256 *sum, const void *data, size_t size);

/* 64 hexadecimal digits and a zero. Ends the sum. */
void sepify_sha256_hex(SepifySha256 *sum, char hex[65]);

#endif
