/* bcryptprimitives.dll, which Wine 8 lacks: Rust's standard library takes its random numbers from ProcessPrng, so
 * every wheel with Rust inside (cryptography, pydantic-core) loads it. SystemFunction036 is RtlGenRandom. */
#include <windows.h>

BOOLEAN WINAPI SystemFunction036(PVOID buffer, ULONG length);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE buffer, SIZE_T length)
{
    while (length > 0) {
        ULONG part = length > MAXLONG ? MAXLONG : (ULONG)length;

        if (!SystemFunction036(buffer, part))
            return FALSE;
        buffer += part;
        length -= part;
    }
    return TRUE;
}
